// The thresholds of a recipe as handles on the histogram of its recorded scores, and what others would have done.
import { read, send, withQuery } from "./api.js";
import { INNER, histogram } from "./charts.js";
import { button, confirmed, draw, field, make, scrolling, trouble } from "./dom.js";
import { person } from "./sentences.js";
import { count, figure, time, word } from "./words.js";

const WAIT_MS = 200;
const NAMES = ["review", "reject"];
const SHAPES = { review: "▲", reject: "✕" };

export function thresholds(recipe, changed) {
  const name = encodeURIComponent(recipe.recipe);
  const wanted = { review: recipe.thresholds.review, reject: recipe.thresholds.reject };
  const chart = make("div", { class: "handles" });
  const sum = make("div", { id: "what-if", "aria-live": "polite" });
  const inputs = {};
  let span = [0, 1];
  let timer = 0;
  let turn = 0;

  const place = (value) => INNER.left + (value - span[0]) / (span[1] - span[0]) * (INNER.right - INNER.left);
  // The image of what is asked for follows the handle at once, the figures when it rests.
  function set(which, value) {
    const bounds = which === "review" ? [0, wanted.reject] : [wanted.review, 1];
    wanted[which] = Math.round(1e4 * Math.max(bounds[0], Math.min(bounds[1], value))) / 1e4;
    inputs[which].value = String(wanted[which]);
    move();
    clearTimeout(timer);
    timer = setTimeout(ask, WAIT_MS);
  }

  function move() {
    for (const which of NAMES) {
      const handle = chart.querySelector(`[data-handle=${which}]`);
      if (!handle) continue;
      handle.setAttribute("transform", `translate(${place(wanted[which]).toFixed(1)} 0)`);
      handle.setAttribute("aria-valuenow", wanted[which]);
      handle.setAttribute("aria-valuetext", figure(wanted[which], 4));
    }
  }

  async function ask() {
    const mine = ++turn;
    try {
      const found = await read(withQuery(`recipes/${name}/what-if`, wanted));
      if (mine === turn && chart.isConnected) show(found);
    } catch (error) {
      if (mine === turn) sum.replaceChildren(trouble(error));
    }
  }

  function show(found) {
    const { edges, counts, good, defects } = found.histogram;
    const other = counts.map((all, index) => Math.max(0, all - good[index] - defects[index]));
    if (!chart.firstChild) {
      // A threshold above all scores is to be seen, and to be moved, too.
      span = [Math.min(edges[0], wanted.review), Math.min(1, Math.max(edges.at(-1), 1.1 * wanted.reject))];
      const svg = histogram(word("scores"), edges, [{ name: "other", counts: other }, { name: "good", counts: good }, { name: "defect", counts: defects }], span);
      svg.removeAttribute("role");
      svg.append(...NAMES.map((which) => handleOf(which, svg)));
      chart.append(svg);
    }
    move();
    const row = (title, now, then, better) => make("tr", {}, make("th", { scope: "row" }, title), make("td", {}, count(now)), make("td", {}, count(then)),
      make("td", { class: then === now ? "" : then > now === better ? "better" : "worse" }, then === now ? "=" : `${then > now ? "+" : "−"}${count(Math.abs(then - now))}`));
    const { reviewed } = found;
    sum.replaceChildren(make("p", {}, word("what_if_of", count(found.parts), found.version)), scrolling(word("difference"), make("table", { class: "list" },
      make("thead", {}, make("tr", {}, ...["", word("now"), word("then"), word("difference")].map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, row(word("passed"), found.now.OK, found.then.OK, true), row(word("to_look_at"), found.now.REVIEW, found.then.REVIEW, false), row(word("rejected"), found.now.NG, found.then.NG, false),
        row(word("escapes_of", count(reviewed.defects)), reviewed.escapes_now, reviewed.escapes_then, false), row(word("rejects_of", count(reviewed.good)), reviewed.rejects_now, reviewed.rejects_then, false)))));
  }

  function handleOf(which, svg) {
    const step = (span[1] - span[0]) / 200;
    const keys = { ArrowLeft: -step, ArrowDown: -step, ArrowRight: step, ArrowUp: step, PageDown: -10 * step, PageUp: 10 * step };
    const handle = draw("g", { "data-handle": which, class: `handle ${which}`, tabindex: "0", role: "slider", "aria-label": word(`${which}_from`), "aria-valuemin": span[0], "aria-valuemax": span[1] },
      draw("rect", { class: "touch", x: -22, width: 44, y: 0, height: INNER.bottom }), draw("line", { y1: INNER.top, y2: INNER.bottom }), draw("circle", { cy: which === "review" ? 52 : 24, r: 13 }),
      draw("text", { y: which === "review" ? 57 : 29, "text-anchor": "middle" }, SHAPES[which]));
    const at = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return span[0] + (point.x - INNER.left) / (INNER.right - INNER.left) * (span[1] - span[0]);
    };
    handle.addEventListener("pointerdown", (event) => { event.preventDefault(); handle.focus(); handle.setPointerCapture(event.pointerId); });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) set(which, at(event)); });
    handle.addEventListener("keydown", (event) => {
      if (!(event.key in keys)) return;
      event.preventDefault();
      set(which, wanted[which] + keys[event.key]);
    });
    return handle;
  }

  for (const which of NAMES) {
    inputs[which] = make("input", { type: "number", min: "0", max: "1", step: "0.0001", value: Number(wanted[which].toFixed(4)), name: which });
    inputs[which].addEventListener("change", () => set(which, Number(inputs[which].value)));
  }
  const said = make("div");
  const change = async (question, work) => {
    if (!await confirmed(question, word("apply"), word("cancel"))) return;
    try {
      await work();
      changed();
    } catch (error) {
      said.replaceChildren(trouble(error));
    }
  };
  const apply = button(word("apply"), () => change(word("apply_question", figure(wanted.review, 4), figure(wanted.reject, 4), recipe.recipe), () => send("PATCH", `recipes/${name}/limits`, wanted)), { id: "limits-apply", class: "main" });
  const reset = button(word("reset_limits"), () => change(word("reset_question", recipe.recipe), () => send("POST", `recipes/${name}/limits/reset`)), { id: "limits-reset", disabled: recipe.limits?.source !== "changed" });
  ask();
  return make("section", { id: "thresholds" }, make("h3", {}, word("thresholds")), make("p", { class: "quiet" }, recipe.limits?.source === "changed" ? word("limits_changed", time(new Date(recipe.limits.changed) / 1000), person(recipe.limits.by)) : word("limits_own")),
    chart, make("p", { class: "legend quiet" }, make("i", { class: "other" }), word("not_reviewed"), make("i", { class: "good" }), word("reviewed_good"), make("i", { class: "defect" }), word("reviewed_defect")),
    make("div", { class: "row" }, ...NAMES.map((which) => field(`${SHAPES[which]} ${word(`${which}_from`)}`, inputs[which])), apply, reset), said, sum);
}
