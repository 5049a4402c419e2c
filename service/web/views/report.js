// The report of a shift or a lot, to be printed and signed.
import { read, readPage, withQuery } from "../api.js";
import { decided } from "../decided.js";
import { button, facts, field, make, scrolling, trouble } from "../dom.js";
import { fault, title } from "../sentences.js";
import { VERDICTS, badge, served } from "../verdict.js";
import { count, figure, percent, time, word } from "../words.js";

const FAILED = ["NG", "REVIEW", "NOT_INSPECTED"];
const MOST = 200;

let shown = 0;

export async function enter(root, rest, query) {
  const mine = (shown += 1);
  const asked = { lot: query.get("lot") ?? "", shift: query.get("shift") ?? "now" };
  const lot = make("input", { name: "lot", value: asked.lot, autocomplete: "off", required: true });
  const form = make("form", { id: "report-form", class: "row" }, field(word("lot"), lot), make("button", {}, word("report_of_lot")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = `#/report?${new URLSearchParams({ lot: lot.value })}`;
  });
  const shift = (which) => make("a", { class: "link-button", href: `#/report?shift=${which}`, ...(!asked.lot && asked.shift === which ? { "aria-current": "page" } : {}) }, word(`shift_${which}`));
  const paper = make("section", { id: "report" });
  root.append(make("div", { class: "column" }, make("div", { class: "spread no-print" }, make("div", { class: "row" }, shift("now"), shift("before")), form, button(word("print_it"), () => print(), { class: "main" })), paper));
  try {
    const found = await read(withQuery("report", asked.lot ? { lot: asked.lot } : { shift: asked.shift }));
    const span = asked.lot ? { lot: asked.lot } : { after: found.after, before: found.before };
    const failed = await readPage(withQuery("inspections", { ...span, verdict: FAILED, limit: MOST }));
    const decisions = await read("decisions?limit=1000").catch(() => []);
    if (mine === shown) paper.append(...show(found, failed.rows, decisions));
  } catch (error) {
    if (mine === shown) paper.append(trouble(error));
  }
}

export function leave() { shown += 1; }

const table = (name, head, rows) => scrolling(name, make("table", { class: "list" }, make("thead", {}, make("tr", {}, ...head.map((one) => make("th", { scope: "col" }, one)))),
  make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell)))))));

function show(found, failed, decisions) {
  const line = new URLSearchParams(location.search).get("line") ?? word("title");
  const [from, until] = found.lot ? [found.first, found.last] : [found.after, found.before];
  const heading = [make("h2", {}, `${word("view_report")} · ${line}`),
    facts([[found.lot ? word("lot") : word("period"), found.lot ?? word("shift", found.shift)], [word("after"), from && time(from)], [word("until"), until && time(until)]])];
  if (!found.parts.length) return [...heading, make("p", {}, word("nothing_found"))];
  const share = (one, name) => `${count(one[name])} (${percent(one[name] / one.total)})`;
  const all = Object.fromEntries(["total", ...VERDICTS].map((name) => [name, found.parts.reduce((sum, one) => sum + one[name], 0)]));
  const during = decisions.filter(({ at }) => new Date(at) / 1000 >= from && new Date(at) / 1000 <= until);
  const { reviews } = found;
  const reasons = Object.entries(found.not_inspected).map(([reason, number]) => [title(reason, fault(reason)), count(number)]);
  return [...heading,
    table(word("view_report"), [word("recipe"), word("total"), ...VERDICTS.map((name) => word(name))],
      [...found.parts.map((one) => [served(one) || word("unknown_recipe"), count(one.total), ...VERDICTS.map((name) => share(one, name))]),
        ...(found.parts.length > 1 ? [[word("all"), count(all.total), ...VERDICTS.map((name) => share(all, name))]] : [])]),
    make("h3", {}, word("reviews")), facts([[word("reviewed"), count(reviews.reviewed)], [word("still_open"), count(reviews.waiting)], [word("rejected_good"), count(reviews.rejected_good)], [word("passed_defects"), count(reviews.passed_defects)]]),
    ...(reasons.length ? [make("h3", {}, word("NOT_INSPECTED")), facts(reasons)] : []),
    ...(during.length ? [make("h3", {}, word("decisions")), decided(during)] : []),
    ...(failed.length ? [make("h3", {}, word("failed_parts", count(failed.length))), table(word("view_history"), ["time", "part", "verdict", "score", "last_review"].map((name) => word(name)),
      failed.map((one) => [time(one.time), one.part_id || word("no_name"), badge(one.verdict), one.score === undefined || one.score === null ? "" : figure(one.score), one.review ? badge(one.review) : one.open ? word("open") : ""]))] : []),
    make("p", { class: "sign" }, word("signature"))];
}
