// Quality: how verdicts, scores and images change over time, per camera and recipe.
import { read, withQuery } from "../api.js";
import { figures, histogram, trend } from "../charts.js";
import { choice, field, make, trouble } from "../dom.js";
import { cameras } from "../feed.js";
import { shape } from "../verdict.js";
import { clock, count, figure, language, percent, word } from "../words.js";

const PERIODS = { 8: "hours_8", 24: "hours_24", 168: "days_7", 720: "days_30" };
const GROUPS = ["hour", "camera", "recipe"];
const RATES = ["NG", "REVIEW", "NOT_INSPECTED"];
const MEANS = { score: 3, brightness: 1, sharpness: 1 };

let shown = 0;

export async function enter(root, rest, query) {
  const mine = (shown += 1);
  const recipes = await read("recipes").catch(() => []);
  if (mine !== shown) return;
  const values = { recipe: query.get("recipe") ?? recipes.find((one) => one.default)?.recipe ?? recipes[0]?.recipe ?? "", camera: query.get("camera") ?? "", by: query.get("by") ?? "hour", hours: query.get("hours") ?? "24" };
  if (values.camera) cameras.add(values.camera);
  const all = [["", word("all")]];
  const form = make("form", { id: "quality-form", class: "fields" },
    field(word("recipe"), choice("recipe", [...all, ...recipes.map((one) => [one.recipe, one.recipe])], values.recipe)),
    field(word("camera"), choice("camera", [...all, ...[...cameras].sort().map((name) => [name, name])], values.camera)),
    field(word("by"), choice("by", GROUPS.map((name) => [name, word(`by_${name}`)]), values.by)),
    field(word("period"), choice("hours", Object.entries(PERIODS).map(([hours, name]) => [hours, word(name)]), values.hours)));
  form.addEventListener("change", () => { location.hash = `#/quality?${new URLSearchParams(new FormData(form))}`; });
  const charts = make("div", { class: "charts" });
  root.append(make("div", { class: "column" }, make("section", {}, make("h2", {}, word("view_quality")), form), charts));
  try {
    const { recipe, camera, by, hours } = values;
    const after = new Date(Date.now() - 3.6e6 * Number(hours)).toISOString();
    const found = await read(withQuery("statistics", { recipe, camera, by, after }));
    if (mine === shown) show(charts, found, Number(hours));
  } catch (error) {
    if (mine === shown) charts.append(trouble(error));
  }
}

export function leave() { shown += 1; }

function show(charts, found, hours) {
  // Between cameras or recipes there is nothing.
  const connected = found.by === "hour";
  const nameOf = (group) => {
    if (found.by !== "hour") return group ?? "–";
    return hours > 48 ? new Date(group).toLocaleDateString(language(), { day: "2-digit", month: "2-digit" }) : clock(group);
  };
  if (!found.groups.some((group) => group.total)) {
    charts.append(make("section", {}, make("p", {}, word("nothing_found"))));
    return;
  }
  for (const verdict of RATES) {
    const chart = found.p_chart[verdict];
    const rows = chart.points.map((point) => ({ name: nameOf(point.group), value: point.rate, low: point.low, high: point.high, outside: point.outside }));
    const outside = rows.filter((row) => row.outside).map((row) => row.name);
    charts.append(make("section", {}, make("h3", {}, `${shape(verdict)} ${word("rate_of", word(verdict))}`),
      make("p", { class: outside.length ? "warning" : "quiet" }, outside.length ? `▲ ${word("outside", outside.join(", "))}` : word("inside", percent(chart.centre))),
      trend(word("rate_of", word(verdict)), rows, { centre: chart.centre, format: (value) => percent(value), connected })));
  }
  for (const [name, digits] of Object.entries(MEANS)) {
    const rows = found.groups.map((group) => ({ name: nameOf(group.group), value: group[name] }));
    if (!rows.some((row) => row.value !== null && row.value !== undefined)) continue;
    charts.append(make("section", {}, make("h3", {}, word("mean_of", word(name))), trend(word("mean_of", word(name)), rows, { format: (value) => figure(value, digits), connected })));
  }
  if (found.histogram) charts.append(make("section", {}, make("h3", {}, word("scores")), histogram(word("scores"), found.histogram.edges, [{ name: "other", counts: found.histogram.counts }]),
    make("p", { class: "quiet" }, word("scores_of", count(found.histogram.of)), found.histogram.thresholds ? ` · ${word("review_from")} ${figure(found.histogram.thresholds.review)} · ${word("reject_from")} ${figure(found.histogram.thresholds.reject)}` : "")));
  const cell = (value, digits) => (value === null || value === undefined ? "" : figure(value, digits));
  charts.append(make("section", { class: "wide" }, figures(word("figures"), [word(`by_${found.by}`), word("total"), "OK", ...RATES.map((name) => word(name)), ...Object.keys(MEANS).map((name) => word(name))],
    found.groups.map((group) => [nameOf(group.group), count(group.total), count(group.OK), ...RATES.map((name) => count(group[name])), ...Object.entries(MEANS).map(([name, digits]) => cell(group[name], digits))]))));
}
