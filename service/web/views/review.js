// Review: one part after the other is called good or defect by a person, with the defect's type and place.
import { api, read, send, withQuery } from "../api.js";
import { button, choice, facts, field, make, say, trouble } from "../dom.js";
import { Marking } from "../marking.js";
import { pictureOf, sizeOf } from "../picture.js";
import { scale } from "../scale.js";
import { badge, explain, served } from "../verdict.js";
import { count, time, word } from "../words.js";

const TOOLS = { box: "b", brush: "p", erase: "e" };
const AGREES = { good: ["OK"], defect: ["NG"] };

let parts = null;
let queue = [];
let waiting = 0;
let next = null;
let part = null;
let withMap = true;
let busy = false;
let filter = {};

export async function enter(root, [id]) {
  filter = {};
  queue = [];
  part = null;
  busy = false;
  const p = (parts = {
    head: make("h2", { id: "review-head" }), notice: make("div"), marking: new Marking(), tools: {},
    side: make("section", { id: "review-side" }), types: make("div", { class: "row", id: "review-types" }),
    type: make("input", { id: "review-type", maxlength: "64", autocomplete: "off" }), note: make("textarea", { id: "review-note", maxlength: "2000", rows: "2" }), reviewer: make("input", { id: "review-reviewer", maxlength: "64", autocomplete: "off", value: localStorage.getItem("reviewer") ?? "" }),
    about: make("div", { id: "review-part" }), filters: make("div", { class: "row", id: "review-filters" }), none: make("p", { class: "quiet" }),
  });
  const tools = make("div", { class: "row", role: "group", "aria-label": word("tools") });
  for (const [tool, key] of Object.entries(TOOLS)) tools.append(p.tools[tool] = button(`${word(`tool_${tool}`)} (${key.toUpperCase()})`, () => take(tool)));
  tools.append(button(`${word("undo")} (Z)`, () => p.marking.undo()), p.map = button(`${word("show_map")} (M)`, toggleMap, { id: "review-map", "aria-pressed": String(withMap) }));
  p.good = button("", () => decide("good"), { id: "review-good", class: "big verdict OK" });
  p.defect = button("", () => decide("defect"), { id: "review-defect", class: "big verdict NG" });
  p.skip = button(`${word("skip_part")} (→)`, skip, { id: "review-skip" });
  p.side.append(p.about, make("div", { id: "review-decide" }, p.good, p.defect, p.skip),
    make("h3", {}, word("defect_type")), p.types, field(word("other_type"), p.type), field(word("note"), p.note), field(word("your_name"), p.reviewer));
  root.append(make("div", { id: "review" },
    make("section", { id: "review-work" }, make("div", { class: "spread" }, p.head, p.filters), p.notice, tools, p.marking.canvas, p.none, make("p", { class: "quiet keys" }, word("review_keys"))), p.side));
  p.type.addEventListener("input", mark);
  // Several people may work with one key.
  p.reviewer.addEventListener("change", () => localStorage.setItem("reviewer", p.reviewer.value.trim()));
  take("box");
  addEventListener("keydown", press);
  showFilters();
  await guarded(async () => {
    if (id) show(await read(`inspections/${encodeURIComponent(id)}`));
    await fill();
    if (!part) skip();
  });
}

export function leave() {
  removeEventListener("keydown", press);
  parts = null;
}

async function guarded(work) {
  const mine = parts;
  try {
    await work();
    if (mine === parts) mine?.notice.replaceChildren();
  } catch (error) {
    if (mine === parts) mine?.notice.replaceChildren(trouble(error));
  }
}

async function fill() {
  const mine = parts;
  const found = await read(withQuery("reviews", { open: true, limit: 50, cursor: next, ...filter }));
  if (mine !== parts) return;
  next = found.next;
  waiting = found.open;
  const known = new Set([part, ...queue].map((one) => one?.inspection_id));
  queue.push(...found.items.filter((one) => !known.has(one.inspection_id)));
  head();
}

function head() {
  parts.head.textContent = waiting ? word("waiting_for_review", count(waiting)) : word("nothing_to_review");
}

async function showFilters() {
  const mine = parts;
  const found = await read("recipes").catch(() => []);
  if (mine !== parts) return;
  const all = [["", word("all")]];
  const recipe = choice("recipe", [...all, ...found.map((one) => [one.recipe, one.recipe])], "");
  const verdict = choice("verdict", [...all, ...["NG", "REVIEW", "NOT_INSPECTED", "OK"].map((name) => [name, word(name)])], "");
  for (const select of [recipe, verdict]) select.addEventListener("change", () => {
    filter = { recipe: recipe.value, verdict: verdict.value };
    queue = [];
    next = null;
    guarded(async () => { await fill(); skip(); });
  });
  mine.filters.replaceChildren(field(word("recipe"), recipe), field(word("verdict"), verdict));
}

function skip() {
  if (busy) return;
  show(queue.shift() ?? null);
  if (queue.length < 5 && next) guarded(fill);
}

function show(entry) {
  part = entry;
  const p = parts;
  for (const one of [p.good, p.defect, p.skip]) one.disabled = !entry;
  p.type.value = "";
  p.note.value = "";
  p.none.textContent = "";
  p.about.replaceChildren(...(entry ? [badge(entry.verdict), make("p", { class: "name" }, entry.part_id || word("no_name")), make("p", { class: "quiet" }, explain(entry))] : [make("p", {}, word("nothing_to_review"))]));
  if (entry) {
    const table = scale(entry);
    if (table) p.about.append(table);
    const meta = Object.entries(entry.metadata ?? {});
    p.about.append(facts([[word("time"), time(entry.time)], [word("recipe"), served(entry)], [word("camera"), entry.camera_id], [word("lot"), entry.lot_id], ...meta,
      [word("last_review"), entry.review && word(entry.review)]]));
    showTypes(entry);
  }
  for (const [verdict, key] of [["good", "G"], ["defect", "D"]]) {
    const same = entry && AGREES[verdict].includes(entry.verdict);
    const against = entry && AGREES[verdict === "good" ? "defect" : "good"].includes(entry.verdict);
    p[verdict].replaceChildren(make("b", {}, `${word(verdict)} (${key})`), make("small", {}, same ? word("confirms") : against ? word("overrules") : word("decides")));
  }
  picture(entry, true);
}

async function picture(entry, fresh) {
  const mine = parts;
  if (fresh) mine.marking.load(null, true);
  let bitmap = null;
  if (entry && entry.image !== false) {
    const response = await api(pictureOf(entry, withMap ? "overlay" : "image")).catch(() => null);
    if (response?.ok) bitmap = await createImageBitmap(await response.blob());
  }
  if (mine !== parts || entry !== part) return;
  mine.none.textContent = entry && !bitmap ? word("no_image") : "";
  mine.marking.canvas.hidden = !bitmap;
  if (bitmap) mine.marking.load(bitmap, false);
}

function toggleMap() {
  withMap = !withMap;
  parts.map.setAttribute("aria-pressed", String(withMap));
  picture(part, false);
}

async function showTypes(entry) {
  const mine = parts;
  const found = await read(withQuery("defect-types", { recipe: entry.recipe })).catch(() => []);
  if (mine !== parts || entry !== part) return;
  mine.types.replaceChildren(...found.slice(0, 9).map((type, index) => button(`${index + 1} ${type}`, () => { mine.type.value = type; mark(); }, { "data-type": type })));
  mark();
}

function mark() {
  for (const one of parts.types.children) one.setAttribute("aria-pressed", String(one.dataset.type === parts.type.value));
}

function take(tool) {
  parts.marking.tool = tool;
  for (const [name, one] of Object.entries(parts.tools)) one.setAttribute("aria-pressed", String(name === tool));
}

async function decide(verdict) {
  if (!part || busy) return;
  busy = true;
  const mine = parts;
  const done = part;
  await guarded(async () => {
    const defect = verdict === "defect";
    await send("POST", `inspections/${encodeURIComponent(done.inspection_id)}/reviews`, {
      verdict, reviewer: mine.reviewer.value.trim() || null, note: mine.note.value.trim() || null, defect_type: defect ? mine.type.value.trim() || null : null,
      boxes: defect && mine.marking.boxed ? mine.marking.boxes(await sizeOf(done)) : [], mask: defect ? await mine.marking.mask() : null,
    });
    busy = false;
    if (mine !== parts) return;
    waiting = Math.max(0, waiting - (done.open === false ? 0 : 1));
    say(`${done.part_id ?? ""}: ${word(verdict)}`);
    head();
    skip();
  });
  busy = false;
}

function press(event) {
  if (event.target.closest?.("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const tool = Object.keys(TOOLS).find((name) => TOOLS[name] === key);
  if (tool) take(tool);
  else if (key === "g") decide("good");
  else if (key === "d") decide("defect");
  else if (key === "arrowright" || key === "s") skip();
  else if (key === "z") parts.marking.undo();
  else if (key === "m") toggleMap();
  else if (key >= "1" && key <= "9") parts.types.children[Number(key) - 1]?.click();
  else return;
  event.preventDefault();
}
