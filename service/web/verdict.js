// How a verdict looks wherever it stands: a word and a shape, never colour alone.
import { make } from "./dom.js";
import { fault, sentence, title } from "./sentences.js";
import { word } from "./words.js";

export const VERDICTS = ["OK", "REVIEW", "NG", "NOT_INSPECTED"];
const SHAPES = { OK: "✓", REVIEW: "▲", NG: "✕", NOT_INSPECTED: "∅", good: "✓", defect: "✕" };
const TEXTS = { OK: "ok_text", REVIEW: "review_text", NG: "ng_text", NOT_INSPECTED: "none_text" };
const COLOURS = { good: "OK", defect: "NG" };

export const shape = (verdict) => SHAPES[verdict];

export function badge(verdict) {
  return make("span", { class: `badge verdict ${COLOURS[verdict] ?? verdict}` }, make("span", { "aria-hidden": "true" }, shape(verdict)), ` ${word(verdict)}`);
}

// Recipe and version that judged.
export const served = (entry) => [entry.recipe, entry.version && word("version_short", entry.version)].filter(Boolean).join(" ");

// The service's reasons where it has some, or what the verdict means.
export function explain(entry) {
  const problem = entry.code ? [title(entry.code, ""), sentence(entry.detail ?? "")].filter(Boolean).join(": ") : entry.detail;
  return [...(entry.faults ?? []).map(fault), problem].filter(Boolean).join("; ") || word(TEXTS[entry.verdict]);
}
