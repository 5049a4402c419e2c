// The live screen: the verdict of the newest part, readable from two metres, and what it rests on.
import { read, withQuery } from "../api.js";
import { button, choice, field, make, say } from "../dom.js";
import { KEPT, cameras, chosen, newest, now, state as stateNow } from "../feed.js";
import { Picture } from "../picture.js";
import { scale } from "../scale.js";
import { sentence } from "../sentences.js";
import { VERDICTS, explain, served, shape } from "../verdict.js";
import { clock, count, percent, spoken, word } from "../words.js";

// Seconds without a part after which the verdict on the screen is hatched: it is of no part that stands there now.
const OLD_S = 10;
// Nothing on a screen may flash more than three times a second, and nobody listens that fast.
const FLASH_EVERY_MS = 500;
const DRAW_EVERY_MS = 100;
const SAY_EVERY_MS = 2000;
const COUNT_EVERY_MS = 5000;

let parts = {};
let part = null; // what is shown
let pinned = false; // an older part was chosen on purpose
let drawing = false;
let drawn = 0;
let flashed = 0;
let said = 0;
let counted = 0;
let ofCamera = null; // the counts of one camera, which the feed has not

export function enter(root) {
  const p = (parts = {
    verdict: make("section", { id: "live-verdict" }),
    notice: make("p", { id: "live-notice" }),
    shape: make("span", { id: "live-shape", "aria-hidden": "true" }),
    word: make("span", { id: "live-word" }),
    name: make("p", { id: "live-name" }),
    text: make("p", { id: "live-text" }),
    missing: make("p", { id: "live-missing" }),
    scale: make("div", { id: "live-scale" }),
    back: button(word("go_live"), unpin, { id: "live-back", hidden: true }),
    strip: make("ol", { id: "live-strip" }),
    counts: make("dl", { id: "live-counts" }),
    picture: new Picture("live"),
    choices: make("div", { class: "row", id: "live-choices" }),
  });
  p.verdict.append(p.notice, make("p", { id: "live-big" }, p.shape, p.word), p.name, p.missing, p.text, p.scale);
  root.append(
    make("div", { id: "live" },
      p.verdict,
      make("section", { id: "live-picture", "aria-label": word("image") }, make("div", { class: "row" }, p.picture.map, p.back, p.choices), p.picture.frame, p.picture.none),
      make("section", { id: "live-newest" }, make("h2", {}, word("newest")), p.strip),
      make("section", { id: "live-shift" }, p.counts)),
  );
  showChoices();
  strip();
  show(newest.at(-1) ?? null);
  state(stateNow);
}

export function leave() {
  parts.picture?.close();
  parts = {};
  pinned = false;
}

// Parts may come faster than anybody looks; each image that is shown is drawn by the service.
export function inspection() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawn + DRAW_EVERY_MS - Date.now()));
}

function draw() {
  drawing = false;
  drawn = Date.now();
  if (!parts.strip) return;
  strip();
  if (pinned || !newest.length) return;
  show(newest.at(-1));
  flash();
  announce();
}

// The same verdict twice looks like one part: the edge lights up with each.
function flash() {
  if (Date.now() - flashed < FLASH_EVERY_MS) return;
  flashed = Date.now();
  parts.verdict.classList.remove("flash");
  void parts.verdict.offsetWidth;
  parts.verdict.classList.add("flash");
}

function announce() {
  if (Date.now() - said < SAY_EVERY_MS) return;
  said = Date.now();
  say(`${word(part.verdict)} ${part.part_id ?? ""}`);
}

async function showChoices() {
  const found = await read("recipes").catch(() => []);
  if (!parts.choices) return;
  const select = (name, values, chosenValue) => choice(name, [["", word("all")], ...values.map((value) => [value, value])], chosenValue);
  const camera = select("camera", [...cameras].sort(), chosen.camera);
  const recipe = select("recipe", found.map((one) => one.recipe), chosen.recipe);
  const change = () => {
    const query = new URLSearchParams(location.search);
    for (const one of [camera, recipe]) {
      if (one.value) query.set(one.name, one.value);
      else query.delete(one.name);
    }
    // The choice is in the address: a screen that starts again shows the same.
    location.search = query.toString();
  };
  camera.addEventListener("change", change);
  recipe.addEventListener("change", change);
  parts.choices.replaceChildren(field(word("camera"), camera), field(word("recipe"), recipe));
}

export function state(told) {
  if (!parts.counts) return;
  const shift = told.shift;
  if (chosen.camera && shift) countOfCamera(shift);
  const all = Object.entries(shift?.recipes ?? told.counters ?? {}).filter(([name]) => !chosen.recipe || name === chosen.recipe).map(([, one]) => one);
  showCounts(chosen.camera ? ofCamera : all, shift ? new Date(shift.since) : since(all), shift);
  tick();
}

const since = (totals) => { const first = totals.map((one) => one.since).filter(Boolean).sort()[0]; return first ? new Date(first) : null; };

function showCounts(totals, from, shift) {
  if (!totals) return;
  const sum = (name) => totals.reduce((all, one) => all + (one[name] ?? 0), 0);
  const all = sum("total");
  const times = newest.map((entry) => entry.timings_ms?.total).filter((ms) => ms !== undefined).sort((one, other) => one - other);
  parts.counts.replaceChildren(
    ...VERDICTS.map((name) => make("div", { class: `verdict ${name}` },
      make("dt", {}, `${shape(name)} ${word(name)}`),
      make("dd", {}, count(sum(name)), make("small", {}, all ? ` ${percent(sum(name) / all)}` : "")))),
    make("div", {}, make("dt", {}, from ? `${word("total")} ${word("since")} ${clock(from)}` : word("total")), make("dd", {}, count(all))),
    make("div", {}, make("dt", {}, word("latency")), make("dd", {}, times.length ? `${Math.round(times[times.length >> 1])}\u00a0ms` : "–")));
  if (shift) parts.counts.append(make("div", { id: "live-review" }, make("dt", {}, word("to_review")), make("dd", {}, make("a", { href: "#/review" }, count(shift.open_reviews ?? 0)))));
}

async function countOfCamera(shift) {
  if (Date.now() - counted < COUNT_EVERY_MS) return;
  counted = Date.now();
  const found = await read(withQuery("statistics", { camera: chosen.camera, recipe: chosen.recipe, after: shift.since, by: "camera" })).catch(() => null);
  ofCamera = found?.groups ?? ofCamera;
}

// A green OK must not stay on the screen when nothing stands behind it any more.
export function tick() {
  if (!parts.verdict) return;
  const age = part ? now() - part.time : Infinity;
  const old = !pinned && age > OLD_S;
  const notice = !stateNow.connected ? word("no_connection") : !stateNow.ready ? `${word("not_ready")}: ${sentence(stateNow.reason)}` : !part ? word("waiting")
    : old ? `${word("nothing_arrives")} · ${word("last_part")} ${word("ago", spoken(age))}` : "";
  parts.notice.textContent = notice;
  parts.verdict.classList.toggle("hatched", notice !== "");
  const known = part && [part.part_id || word("no_name"), part.camera_id, served(part), word("ago", spoken(age)), part.timings_ms && `${Math.round(part.timings_ms.total)} ms`];
  parts.name.replaceChildren(...(known ? [make("b", {}, known[0]), make("small", {}, known.slice(1).filter(Boolean).join(" · "))] : []));
}

function show(entry) {
  part = entry;
  const p = parts;
  p.verdict.className = entry ? `verdict ${entry.verdict}` : "";
  p.shape.textContent = entry ? shape(entry.verdict) : "";
  p.word.textContent = entry ? word(entry.verdict) : word("waiting");
  p.text.textContent = entry ? explain(entry) : "";
  p.missing.textContent = entry?.missing ? `⚠ ${word("missing_before", count(entry.missing))}` : "";
  p.back.hidden = !pinned;
  p.scale.replaceChildren(...[scale(entry)].filter(Boolean));
  if (entry) p.picture.show(entry);
  mark();
  tick();
}

function unpin() { pinned = false; show(newest.at(-1) ?? null); }

function strip() {
  const empty = Array.from({ length: KEPT - newest.length }, () => make("li", { class: "empty" }));
  parts.strip.replaceChildren(...empty, ...newest.map((entry) => make("li", entry.missing ? { class: "gap" } : {}, make("button", {
    type: "button", class: `verdict ${entry.verdict}`, "data-id": entry.inspection_id,
    "aria-label": [word(entry.verdict), entry.part_id, entry.missing && word("missing_before", count(entry.missing))].filter(Boolean).join(" "), title: `${entry.part_id ?? ""} ${entry.recipe ?? ""}`,
    onclick: () => { pinned = entry !== newest.at(-1); show(entry); },
  }, shape(entry.verdict)))));
  mark();
}

function mark() {
  for (const one of parts.strip.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one.dataset.id === part?.inspection_id));
}
