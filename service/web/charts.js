// Charts as SVG, in the colours of the page; their figures are in a table beside them.
import { draw, make, scrolling } from "./dom.js";
import { figure } from "./words.js";

// On a phone a chart has fewer labels, for they have the same size.
const NARROW = matchMedia("(max-width: 40rem)").matches;
const WIDTH = NARROW ? 400 : 720;
const HEIGHT = 200;
const LEFT = 64;
const BOTTOM = 28;
const TOP = 12;

export const INNER = { left: LEFT, right: WIDTH - 12, top: TOP, bottom: HEIGHT - BOTTOM };

const across = (share) => INNER.left + share * (INNER.right - INNER.left);
const up = (share) => INNER.bottom - share * (INNER.bottom - INNER.top);

export function frame(label, ...children) {
  return draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, class: "chart" },
    draw("line", { x1: INNER.left, x2: INNER.right, y1: INNER.bottom, y2: INNER.bottom, class: "axis" }),
    draw("line", { x1: INNER.left, x2: INNER.left, y1: INNER.top, y2: INNER.bottom, class: "axis" }), ...children);
}

const text = (x, y, content, attributes = {}) => draw("text", { x, y, ...attributes }, content);

function path(points) {
  let pen = "M";
  let d = "";
  for (const point of points) {
    if (point === null) { pen = "M"; continue; }
    d += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  return d;
}

// `rows`: { name, value, low, high, outside }, values null where there are none; `centre` where there is one.
export function trend(label, rows, { centre = null, format = String, connected = true } = {}) {
  const values = rows.flatMap((row) => [row.value, row.high, centre]).filter((value) => value !== null && value !== undefined);
  const lows = rows.flatMap((row) => [row.value, row.low]).filter((value) => value !== null && value !== undefined);
  const most = Math.max(...values, 1e-6);
  const least = centre === null ? Math.min(...lows, most) : 0;
  const room = (most - least || most) * 0.15;
  const [bottom, top] = [Math.max(0, least - room), most + room];
  const at = (index) => across(rows.length > 1 ? (index + 0.5) / rows.length : 0.5);
  const high = (value) => up((value - bottom) / (top - bottom));
  // Limits are of each group alone.
  const steps = (key) => draw("path", { class: "limit", d: rows.map((row, index) => (row[key] === null || row[key] === undefined ? "" : `M${across(index / rows.length).toFixed(1)} ${high(row[key]).toFixed(1)}H${across((index + 1) / rows.length).toFixed(1)}`)).join("") });
  const line = (key, name) => draw("path", { class: name, d: path(rows.map((row, index) => (row[key] === null || row[key] === undefined ? null : [at(index), high(row[key])]))) });
  const step = Math.ceil(rows.length / (NARROW ? 4 : 8));
  return frame(label,
    ...[bottom, (bottom + top) / 2, top].map((value) => text(INNER.left - 8, high(value) + 4, format(value), { "text-anchor": "end" })),
    ...(centre === null ? [] : [draw("line", { x1: INNER.left, x2: INNER.right, y1: high(centre), y2: high(centre), class: "centre" })]),
    steps("low"), steps("high"), connected ? line("value", "line") : null,
    ...rows.map((row, index) => (row.value === null || row.value === undefined ? null : row.outside
      ? draw("path", { class: "dot outside", d: `M${at(index)} ${high(row.value) - 8}l8 14h-16z` }, draw("title", {}, `${row.name}: ${format(row.value)}`))
      : draw("circle", { class: "dot", cx: at(index), cy: high(row.value), r: 4 }, draw("title", {}, `${row.name}: ${format(row.value)}`)))),
    ...rows.map((row, index) => (index % step === 0 ? text(at(index), HEIGHT - 8, row.name, { "text-anchor": "middle" }) : null)));
}

// Bars on top of one another: `series` is [{ name, counts }]. Scores crowd at both ends: heights are square roots.
export function histogram(label, edges, series, [first, last] = [edges[0], edges.at(-1)]) {
  const totals = series[0].counts.map((_, index) => series.reduce((sum, { counts }) => sum + counts[index], 0));
  const most = Math.max(...totals, 1);
  const span = last - first || 1;
  const bars = [];
  for (let index = 0; index + 1 < edges.length; index += 1) {
    const [x1, x2] = [across((edges[index] - first) / span), across((edges[index + 1] - first) / span)];
    let base = 0;
    for (const { name, counts } of series) {
      const [from, to] = [Math.sqrt(base / most), Math.sqrt((base + counts[index]) / most)];
      if (counts[index]) bars.push(draw("rect", { class: `bar ${name}`, x: x1 + 0.5, width: Math.max(1, x2 - x1 - 1), y: up(to), height: Math.max(1, up(from) - up(to)) }));
      base += counts[index];
    }
  }
  return frame(label, ...bars, text(INNER.left - 8, INNER.top + 8, String(most), { "text-anchor": "end" }), text(INNER.left - 8, INNER.bottom, "0", { "text-anchor": "end" }),
    ...[0, 0.25, 0.5, 0.75, 1].map((share) => text(across(share), HEIGHT - 8, figure(first + share * span, 2), { "text-anchor": share === 1 ? "end" : "middle" })));
}

export function figures(caption, head, rows) {
  return make("details", {}, make("summary", {}, caption), scrolling(caption, make("table", { class: "list" },
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", {}, cell))))))));
}
