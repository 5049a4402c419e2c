// The live screen: the verdict of the newest part, readable from two metres, and what it rests on.
import { showPicture } from "../api.js";
import { make } from "../dom.js";
import { KEPT, newest, now, state as stateNow } from "../feed.js";
import { VERDICTS, shape } from "../verdict.js";
import { language, word } from "../words.js";

const TEXTS = { OK: "ok_text", REVIEW: "review_text", NG: "ng_text", NOT_INSPECTED: "none_text" };
// Seconds without a part after which the verdict on the screen is hatched: it is of no part that stands there now.
const OLD_S = 10;

let parts = {};
let part = null; // what is shown
let pinned = false; // an older part was chosen on purpose
let withMap = true;

export function enter(root) {
  const p = (parts = {
    verdict: make("section", { id: "live-verdict", role: "status", "aria-live": "assertive" }),
    notice: make("p", { id: "live-notice" }),
    shape: make("span", { id: "live-shape", "aria-hidden": "true" }),
    word: make("span", { id: "live-word" }),
    name: make("p", { id: "live-name" }),
    text: make("p", { id: "live-text" }),
    scale: make("div", { id: "live-scale", role: "img" }),
    image: make("img", { id: "live-image", alt: "" }),
    loupe: make("div", { id: "live-loupe", hidden: true }),
    boxes: make("div", { id: "live-boxes" }),
    frame: make("div", { id: "live-frame" }),
    noImage: make("p", { id: "live-no-image" }),
    strip: make("ol", { id: "live-strip" }),
    counts: make("dl", { id: "live-counts" }),
  });
  p.verdict.append(p.notice, make("p", { id: "live-big" }, p.shape, p.word), p.name, p.text, p.scale);
  p.frame.append(p.image, p.boxes, p.loupe);
  const map = make("button", { id: "live-map", type: "button", "aria-pressed": String(withMap), onclick: toggleMap }, word("show_map"));
  const back = make("button", { id: "live-back", type: "button", hidden: true, onclick: unpin }, word("go_live"));
  p.map = map;
  p.back = back;
  root.append(
    make("div", { id: "live" },
      p.verdict,
      make("section", { id: "live-picture", "aria-label": word("image") }, make("div", { class: "row" }, map, back), p.frame, p.noImage),
      make("section", { id: "live-newest" }, make("h2", {}, word("newest")), p.strip),
      make("section", { id: "live-shift" }, p.counts)),
  );
  p.frame.addEventListener("pointermove", enlarge);
  p.frame.addEventListener("pointerleave", () => { p.loupe.hidden = true; });
  strip();
  show(newest.at(-1) ?? null);
  state(stateNow);
}

export function leave() { parts = {}; pinned = false; }

export function inspection(entry) {
  strip();
  if (!pinned) show(entry);
}

export function state(said) {
  if (!parts.counts) return;
  const totals = Object.values(said.counters ?? {});
  const sum = (name) => totals.reduce((all, one) => all + (one[name] ?? 0), 0);
  const all = sum("total");
  parts.counts.replaceChildren(...VERDICTS.map((name) => make("div", { class: `verdict ${name}` },
    make("dt", {}, `${shape(name)} ${word(name)}`),
    make("dd", {}, String(sum(name)), make("small", {}, all ? ` ${(100 * sum(name) / all).toFixed(1)} %` : "")))));
  const since = totals.map((one) => one.since).sort()[0];
  if (since) parts.counts.append(make("div", {}, make("dt", {}, `${word("total")} ${word("since")} ${new Date(since).toLocaleTimeString(language(), { hour: "2-digit", minute: "2-digit" })}`), make("dd", {}, String(all))));
  tick();
}

// A green OK must not stay on the screen when nothing stands behind it any more.
export function tick() {
  if (!parts.verdict) return;
  const age = part ? now() - part.time : Infinity;
  const old = !pinned && age > OLD_S;
  const notice = !stateNow.connected ? word("no_connection") : !stateNow.ready ? `${word("not_ready")}: ${stateNow.reason}` : !part ? word("waiting")
    : old ? `${word("nothing_arrives")} · ${word("last_part")} ${word("ago", spoken(age))}` : "";
  parts.notice.textContent = notice;
  parts.verdict.classList.toggle("hatched", notice !== "");
  parts.name.textContent = part ? `${part.part_id || word("no_name")} · ${part.recipe ?? ""} · ${word("ago", spoken(age))}` : "";
}

function spoken(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

function show(entry) {
  part = entry;
  const p = parts;
  if (!p.verdict) return;
  p.verdict.className = entry ? `verdict ${entry.verdict}` : "";
  p.shape.textContent = entry ? shape(entry.verdict) : "";
  p.word.textContent = entry ? word(entry.verdict) : word("waiting");
  const why = entry ? [...(entry.faults ?? []), entry.detail].filter(Boolean).join("; ") : "";
  p.text.textContent = entry ? why || word(TEXTS[entry.verdict]) : "";
  p.back.hidden = !pinned;
  showScale(entry);
  showImage(entry);
  mark();
  tick();
}

// Scores crowd near the thresholds: the scale is stretched so that the band between them has a third of it.
function place(score, { review, reject }) {
  const points = [[0, 0], [review, 1 / 3], [reject, 2 / 3], [1, 1]];
  for (let i = 1; i < points.length; i += 1) {
    const [[from, low], [to, high]] = [points[i - 1], points[i]];
    if (score <= to) return low + (to > from ? (score - from) / (to - from) : 1) * (high - low);
  }
  return 1;
}

function showScale(entry) {
  const known = entry?.score !== undefined && entry?.score !== null && entry.thresholds && entry.verdict !== "NOT_INSPECTED";
  parts.scale.hidden = !known;
  if (!known) return;
  const { review, reject } = entry.thresholds;
  parts.scale.setAttribute("aria-label", `${word("score")} ${entry.score.toFixed(3)}, ${word("review_from")} ${review.toFixed(3)}, ${word("reject_from")} ${reject.toFixed(3)}`);
  parts.scale.replaceChildren(
    make("div", { class: "bands" }, make("i", { class: "OK" }), make("i", { class: "REVIEW" }), make("i", { class: "NG" })),
    make("b", { style: { left: `${(100 * place(entry.score, entry.thresholds)).toFixed(1)}%` } }, entry.score.toFixed(3)),
    make("span", { style: { left: "33.3%" } }, `▲ ${review.toFixed(3)}`),
    make("span", { style: { left: "66.6%" } }, `✕ ${reject.toFixed(3)}`));
}

async function showImage(entry) {
  const p = parts;
  p.boxes.replaceChildren();
  const found = entry ? await showPicture(p.image, `events/${encodeURIComponent(entry.inspection_id)}/${withMap ? "overlay" : "image"}.jpg`).catch(() => false) : false;
  if (entry !== part || p !== parts) return; // a newer part came meanwhile
  p.frame.hidden = !found;
  p.noImage.textContent = entry && !found ? word("no_image") : "";
  if (!found) return;
  p.image.alt = `${withMap ? word("map") : word("image")}: ${entry.part_id ?? ""}`;
  const size = entry.image_size;
  if (!size) return;
  p.boxes.replaceChildren(...entry.regions.map((region) => make("i", {
    style: {
      left: `${100 * region.x / size[1]}%`, top: `${100 * region.y / size[0]}%`,
      width: `${100 * region.width / size[1]}%`, height: `${100 * region.height / size[0]}%`,
    },
  })));
}

function enlarge(event) {
  const box = parts.image.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  parts.loupe.hidden = x < 0 || y < 0 || x > box.width || y > box.height;
  Object.assign(parts.loupe.style, {
    left: `${x}px`, top: `${y}px`, backgroundImage: `url(${parts.image.src})`,
    backgroundSize: `${box.width * 4}px ${box.height * 4}px`,
    backgroundPosition: `${-(x * 4) + 90}px ${-(y * 4) + 90}px`,
  });
}

function toggleMap() {
  withMap = !withMap;
  parts.map.setAttribute("aria-pressed", String(withMap));
  showImage(part);
}

function unpin() { pinned = false; show(newest.at(-1) ?? null); }

function strip() {
  if (!parts.strip) return;
  const empty = Array.from({ length: Math.max(0, KEPT - newest.length) }, () => make("li", { class: "empty" }));
  parts.strip.replaceChildren(...empty, ...newest.map((entry) => make("li", {}, make("button", {
    type: "button", class: `verdict ${entry.verdict}`, "data-id": entry.inspection_id,
    "aria-label": `${word(entry.verdict)} ${entry.part_id ?? ""}`, title: `${entry.part_id ?? ""} ${entry.recipe ?? ""}`,
    onclick: () => { pinned = entry !== newest.at(-1); show(entry); },
  }, shape(entry.verdict)))));
  mark();
}

function mark() {
  for (const button of parts.strip?.querySelectorAll("button") ?? []) button.setAttribute("aria-pressed", String(button.dataset.id === part?.inspection_id));
}
