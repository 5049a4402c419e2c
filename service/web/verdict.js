// How a verdict looks wherever it stands: a word and a shape, never colour alone.
import { make } from "./dom.js";
import { word } from "./words.js";

export const VERDICTS = ["OK", "REVIEW", "NG", "NOT_INSPECTED"];
const SHAPES = { OK: "✓", REVIEW: "▲", NG: "✕", NOT_INSPECTED: "∅" };

export const shape = (verdict) => SHAPES[verdict];

export function badge(verdict, ...more) {
  return make("span", { class: `verdict ${verdict}` }, make("span", { "aria-hidden": "true" }, shape(verdict)), ` ${word(verdict)}`, ...more);
}
