// Who decided what about the recipes: versions, thresholds, defaults.
import { make, scrolling } from "./dom.js";
import { about, person } from "./sentences.js";
import { figure, time, word } from "./words.js";

const OF_LIMITS = { review: "review_from", reject: "reject_from" };

// A choice is a name in its first line, a change of limits is JSON.
function said(decision) {
  if (decision === null) return word("taken_back");
  if (!decision.startsWith("{")) return decision.split("\n")[0];
  const { review, reject, pixel, min_area: area, quality = {} } = JSON.parse(decision);
  const given = Object.entries({ review, reject, pixel, min_area: area, ...quality }).filter(([, value]) => value !== undefined && value !== null);
  return given.map(([name, value]) => `${name in OF_LIMITS ? word(OF_LIMITS[name]) : name} ${name === "min_area" ? value : figure(value, 4)}`).join(" · ") || word("limits_own");
}

export function decided(decisions) {
  const head = ["time", "by_whom", "what", "decision"].map((name) => make("th", { scope: "col" }, word(name)));
  const rows = decisions.map((one) => make("tr", {}, ...[time(new Date(one.at) / 1000), person(one.by), about(one.about), said(one.decision)].map((cell) => make("td", {}, cell))));
  return scrolling(word("decisions"), make("table", { class: "list" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}
