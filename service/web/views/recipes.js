// Recipes: which version serves and why, its report, the versions beside it, and the thresholds it judges by.
import { read, send, withQuery } from "../api.js";
import { button, confirmed, facts, field, make, scrolling, trouble } from "../dom.js";
import { report } from "../report.js";
import { person, sentence } from "../sentences.js";
import { thresholds } from "../thresholds.js";
import { count, language, percent, time, word } from "../words.js";

// A recipe that passes this share of the defects it was tried on is named as blind.
const BLIND = 0.5;

let shown = 0;

export async function enter(root, [name, version, what]) {
  const mine = (shown += 1);
  const column = make("div", { class: "column" });
  root.append(column);
  try {
    const found = await read("recipes");
    if (mine !== shown) return;
    if (version) await showReport(column, name, version, what === "comparison" ? what : "report", mine);
    else if (found.length) show(column, found, found.find((one) => one.recipe === name) ?? found.find((one) => one.default) ?? found[0], mine);
    else column.append(make("p", {}, word("no_recipes")), collectForm());
  } catch (error) {
    if (mine === shown) column.append(trouble(error));
  }
}

export function leave() { shown += 1; }

async function showReport(column, name, version, what, mine) {
  const waiting = make("p", { role: "status" }, word(what === "comparison" ? "comparing" : "working"));
  column.append(make("div", { class: "row" }, make("a", { class: "link-button", href: `#/recipes/${encodeURIComponent(name)}` }, `‹ ${name}`)), waiting);
  try {
    const page = await report(`recipes/${encodeURIComponent(name)}/versions/${encodeURIComponent(version)}/${what}.html`);
    if (mine !== shown) return;
    if (language() !== "en") column.append(make("p", {}, word("report_language")));
    column.append(page);
  } finally {
    waiting.remove();
  }
}

// Everything that makes the recipe unfit to be relied on, in words.
function warnings(recipe) {
  const said = [];
  if (!recipe.ready && !recipe.collecting) said.push(`${word("recipe_unfit")}: ${recipe.reason ? sentence(recipe.reason) : word("not_ready")}`);
  if (recipe.unfit) said.push(`${word("serves_unfit")}: ${sentence(recipe.unfit)}`);
  const trial = recipe.calibration;
  if (trial?.defect_images && trial.escapes >= BLIND * trial.defect_images) said.push(word("recipe_blind", count(trial.escapes), count(trial.defect_images), word(`defects_${trial.defect_source}`)));
  if (trial?.warning) said.push(sentence(trial.warning));
  if (recipe.newer?.length) said.push(word("newer_not_active", recipe.newer.join(", ")));
  return said;
}

// Photos of the line for the first training of a recipe that has no model.
function collectForm() {
  const name = make("input", { name: "collect", autocomplete: "off", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}", required: true });
  const said = make("div");
  const form = make("form", { id: "collect-form", class: "row" }, field(word("new_recipe"), name), make("button", {}, word("collect")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await send("POST", `recipes/${encodeURIComponent(name.value)}/collect`);
      location.hash = `#/recipes/${encodeURIComponent(name.value)}`;
    } catch (error) {
      said.replaceChildren(trouble(error));
    }
  });
  return make("section", {}, make("h3", {}, word("collect_title")), make("p", { class: "quiet" }, word("collect_text")), form, said);
}

// What a recipe without a model has gathered so far.
const gathered = ({ photos, since, by }) => facts([[word("photos"), photos === null ? "?" : count(photos)], [word("since"), since && time(new Date(since) / 1000)], [word("by_whom"), person(by)]]);

function show(column, found, recipe, mine) {
  const name = encodeURIComponent(recipe.recipe);
  const again = () => {
    if (mine !== shown) return;
    const root = column.parentElement;
    root.replaceChildren();
    enter(root, [recipe.recipe]);
  };
  const said = make("div");
  const change = (text, path, question) => button(text, async () => {
    if (question && !await confirmed(question, text, word("cancel"))) return;
    said.replaceChildren(make("p", { role: "status" }, word("working")));
    try {
      await send("POST", path);
      again();
    } catch (error) {
      said.replaceChildren(trouble(error));
    }
  });
  const tabs = make("nav", { class: "row", "aria-label": word("view_recipes") }, ...found.map((one) => make("a", {
    class: "link-button", href: `#/recipes/${encodeURIComponent(one.recipe)}`, ...(one === recipe ? { "aria-current": "page" } : {}),
  }, `${warnings(one).length ? "⚠ " : ""}${one.recipe}`)));
  const trial = recipe.calibration;
  const actions = recipe.version ? [
    change(word("verify"), `recipes/${name}/verify`), change(word("rollback"), `recipes/${name}/rollback`, word("rollback_question", recipe.recipe)),
    ...(recipe.default ? [] : [change(word("make_default"), `recipes/${name}/default`)]),
    ...(recipe.shadow ? [change(word("end_shadow"), `recipes/${name}/shadow`)] : [])] : recipe.collecting ? [change(word("end_collecting"), `recipes/${name}/collect/end`, word("end_collecting_question", recipe.recipe))] : [];
  column.append(tabs, make("div", { class: "two" },
    make("section", {}, make("h2", {}, recipe.recipe, recipe.default ? ` · ${word("default")}` : ""), ...warnings(recipe).map((text) => make("p", { class: "warning" }, "⚠ ", text)),
      ...(recipe.collecting ? [make("p", {}, word("collecting")), make("p", {}, word("collecting_next"), " ", make("code", {}, `python -m training collect --records records --recipe ${recipe.recipe} --out photos && make train DATA=photos RECIPE=${recipe.recipe}`)), gathered(recipe.collecting)] : []),
      facts([[word("version"), recipe.version], [word("why"), recipe.why && sentence(recipe.why)], [word("checked"), recipe.golden_checked && time(new Date(recipe.golden_checked) / 1000)],
        [word("false_rejects"), trial && word("of", count(trial.false_rejects), count(trial.good_images), interval(trial.false_reject_interval))],
        [word("escapes"), trial?.defect_images ? `${word("of", count(trial.escapes), count(trial.defect_images), interval(trial.escape_interval))} · ${word(`defects_${trial.defect_source}`)}` : null],
        [word("shadow"), recipe.shadow]]),
      make("div", { class: "row" }, ...actions), said),
    recipe.collecting ? null : make("section", {}, make("h3", {}, word("versions")), versions(recipe, change))));
  if (recipe.thresholds) column.append(thresholds(recipe, again));
  column.append(collectForm());
}

const interval = ([low, high]) => `${percent(low)} – ${percent(high)}`;

function versions(recipe, change) {
  const name = encodeURIComponent(recipe.recipe);
  const rows = recipe.versions.map((version) => {
    const own = encodeURIComponent(version);
    const fault = recipe.faulty[version];
    const active = version === recipe.version;
    const state = active ? word("in_service") : fault ? `⚠ ${fault}` : version === recipe.shadow ? word("shadow") : recipe.newer.includes(version) ? word("newer") : "";
    const actions = active || fault ? [] : [...(recipe.version ? [make("a", { class: "link-button", href: `#/recipes/${name}/${own}/comparison` }, word("compare"))] : []), change(word("activate"), withQuery(`recipes/${name}/activate`, { version }), word("activate_question", version, recipe.recipe)),
      ...(version === recipe.shadow ? [] : [change(word("try_shadow"), withQuery(`recipes/${name}/shadow`, { version }))])];
    return make("tr", {}, make("th", { scope: "row" }, version), make("td", {}, state), make("td", {}, make("div", { class: "row" }, make("a", { class: "link-button", href: `#/recipes/${name}/${own}` }, word("report")), ...actions)));
  });
  const ignored = Object.entries(recipe.ignored).map(([folder, why]) => make("tr", {}, make("th", { scope: "row" }, folder), make("td", { colspan: "2" }, `⚠ ${why}`)));
  return scrolling(word("versions"), make("table", { class: "list versions" }, make("tbody", {}, ...rows.reverse(), ...ignored)));
}
