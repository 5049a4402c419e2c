// System: what runs, how full the disk is, what is degraded; the counters of the shift.
import { read, send, withQuery } from "../api.js";
import { decided } from "../decided.js";
import { button, confirmed, facts, make, scrolling, trouble } from "../dom.js";
import { sentence, person } from "../sentences.js";
import { VERDICTS } from "../verdict.js";
import { bytes, clock, count, figure, time, word } from "../words.js";

const EVERY_MS = 5000;

let shown = 0;

export async function enter(root) {
  const mine = (shown += 1);
  const cards = make("div", { class: "cards" });
  root.append(cards);
  while (mine === shown) {
    try {
      const [state, counters, access, decisions] = await Promise.all([read("state"), read("counters"), read("access").catch(() => null), read("decisions?limit=20").catch(() => [])]);
      if (mine !== shown) return;
      // A page that is read, or worked with, keeps its place: a card is replaced where it says something new.
      if (!cards.contains(document.activeElement)) cards.replaceChildren(...show(state, counters, access, decisions));
    } catch (error) {
      if (mine === shown) cards.replaceChildren(trouble(error));
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

export function leave() { shown += 1; }

function show(state, counters, access, decisions) {
  const wrong = [...state.troubles.map(sentence), ...Object.entries(state.failed).map(([recipe, why]) => `${recipe}: ${sentence(why)}`), ...state.recipes.filter((one) => one.failures_in_a_row).map((one) => word("failing", one.recipe, one.failures_in_a_row))];
  const records = state.records;
  return [
    make("section", {}, make("h2", {}, word("health")), make("p", { class: state.ready ? "good" : "warning" }, state.ready ? `✓ ${word("ready")}` : `⚠ ${word("not_ready")}`),
      ...(wrong.length ? wrong.map((text) => make("p", { class: "warning" }, "⚠ ", text)) : [make("p", { class: "quiet" }, word("no_troubles"))]),
      facts([[word("requested_backend"), state.requested_backend], [word("queue"), count(state.queue_depth)], [word("you_are"), access && `${person(access.name)}: ${access.rights.map((right) => word(`right_${right}`)).join(", ")}`]])),
    make("section", {}, make("h2", {}, word("records")), records ? facts([[word("folder"), records.folder], [word("parts_recorded"), count(records.records)],
      [word("images_kept"), records.images_budget_bytes ? word("of_budget", bytes(records.images_bytes), bytes(records.images_budget_bytes)) : bytes(records.images_bytes)],
      [word("disk_free"), bytes(records.disk_free_bytes)], [word("to_write"), count(records.queue)], [word("chain"), records.chain && `${count(records.chain.length)} · ${String(records.chain.head).slice(0, 12)}`]]) : make("p", { class: "quiet" }, word("no_records"))),
    ...state.recipes.map((one) => make("section", {}, make("h2", {}, `${one.recipe} ${one.version}`), facts([[word("backend"), `${one.backend.name} · ${one.backend.provider} · ${one.backend.precision}`],
      [word("per_image"), `${figure(one.ms_per_image, 1)} ms`], [word("checked"), one.golden_checked && clock(one.golden_checked)], [word("model"), one.model_sha256.slice(0, 12)], [word("why"), one.why && sentence(one.why)]]))),
    make("section", { class: "wide" }, make("h2", {}, word("counters")), scrolling(word("counters"), make("table", { class: "list" },
      make("thead", {}, make("tr", {}, ...[word("recipe"), word("total"), ...VERDICTS.map((name) => word(name)), word("since"), ""].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...Object.entries(counters).map(([recipe, one]) => make("tr", {}, make("th", { scope: "row" }, recipe || word("unknown_recipe")), make("td", {}, count(one.total)), ...VERDICTS.map((name) => make("td", {}, count(one[name] ?? 0))),
        make("td", {}, one.since ? time(new Date(one.since) / 1000) : ""), make("td", {}, button(word("reset"), (event) => reset(event, recipe))))))))),
    make("section", { class: "wide" }, make("h2", {}, word("decisions")), decisions.length ? decided(decisions) : make("p", { class: "quiet" }, word("no_decisions"))),
  ];
}

async function reset(event, recipe) {
  const cell = event.target.parentElement;
  if (!await confirmed(word("reset_counters_question", recipe), word("reset"), word("cancel"))) return;
  try {
    await send("POST", withQuery("counters/reset", { recipe }));
    dispatchEvent(new HashChangeEvent("hashchange"));
  } catch (error) {
    cell.append(trouble(error));
  }
}
