// A score between its thresholds. Scores crowd near the thresholds: the scale is stretched so that the band between
// them has a third of it.
import { make } from "./dom.js";
import { figure, word } from "./words.js";

function place(score, { review, reject }) {
  const points = [[0, 0], [review, 1 / 3], [reject, 2 / 3], [1, 1]];
  for (let i = 1; i < points.length; i += 1) {
    const [[from, low], [to, high]] = [points[i - 1], points[i]];
    if (score <= to) return low + (to > from ? (score - from) / (to - from) : 1) * (high - low);
  }
  return 1;
}

// Nothing for a part without a score that counts.
export function scale(entry) {
  if (entry?.score === undefined || entry.score === null || !entry.thresholds || entry.verdict === "NOT_INSPECTED") return null;
  const { review, reject } = entry.thresholds;
  const label = `${word("score")} ${figure(entry.score)}, ${word("review_from")} ${figure(review)}, ${word("reject_from")} ${figure(reject)}`;
  return make("div", { class: "scale", role: "img", "aria-label": label },
    make("div", { class: "bands" }, make("i", { class: "OK" }), make("i", { class: "REVIEW" }), make("i", { class: "NG" })),
    make("b", { style: { left: `${(100 * place(entry.score, entry.thresholds)).toFixed(1)}%` } }, figure(entry.score)),
    make("span", { style: { left: "33.3%" } }, `▲ ${figure(review)}`),
    make("span", { style: { left: "66.6%" } }, `✕ ${figure(reject)}`));
}
