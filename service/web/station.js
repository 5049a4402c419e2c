// The station's page: which view is shown, in which language; the state of the connection, on every view.
import { key, setKey, whenRefused } from "./api.js";
import { choose, chosen, follow, state as stateNow } from "./feed.js";
import { sentence } from "./sentences.js";
import { clock, languages, language, setLanguage, word } from "./words.js";
import * as history from "./views/history.js";
import * as live from "./views/live.js";
import * as quality from "./views/quality.js";
import * as recipes from "./views/recipes.js";
import * as report from "./views/report.js";
import * as review from "./views/review.js";
import * as system from "./views/system.js";
import * as trial from "./views/try.js";

const at = (id) => document.getElementById(id);
const VIEWS = { live, review, recipes, history, quality, report, system, try: trial };
const parameters = new URLSearchParams(location.search);
const FIRST = location.pathname.endsWith("/try") ? "try" : "live";

let shown = null;

// "#/history/ID?verdict=NG": the view, what of it, and how.
function address() {
  const [path, query = ""] = location.hash.slice(2).split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  return { name: name in VIEWS ? name : FIRST, rest, query: new URLSearchParams(query) };
}

function show() {
  const { name, rest, query } = address();
  shown?.leave();
  shown = VIEWS[name];
  at("view").className = `view-${name}`;
  at("view").replaceChildren();
  document.title = `${word(`view_${name}`)} · ${parameters.get("line") ?? word("title")}`;
  for (const link of at("views").children) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  at("views").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  shown.enter(at("view"), rest, query);
}

function buildBar() {
  document.documentElement.lang = language();
  const links = Object.keys(VIEWS).map((name) => {
    const link = document.createElement("a");
    link.href = `#/${name}`;
    link.dataset.view = name;
    link.textContent = word(`view_${name}`);
    return link;
  });
  const docs = document.createElement("a");
  docs.href = "docs";
  docs.textContent = word("view_api");
  at("views").replaceChildren(...links, docs);
  at("views").setAttribute("aria-label", word("views"));
  at("language").replaceChildren(...Object.entries(languages).map(([code, name]) => new Option(name, code)));
  at("language").value = language();
  at("line").textContent = parameters.get("line") ?? word("title");
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  showState(stateNow);
}

function showState(state) {
  at("link").className = state.connected && state.ready ? "ready" : "lost";
  at("link").textContent = !state.connected ? word("no_connection") : state.ready ? word("ready") : `${word("not_ready")}: ${sentence(state.reason)}`;
  const troubles = state.connected ? state.troubles ?? [] : [];
  at("troubles").hidden = !troubles.length;
  at("troubles").textContent = troubles.length ? `⚠ ${sentence(troubles[0])}${troubles.length > 1 ? ` (+${troubles.length - 1})` : ""}` : "";
  const shift = state.shift ? word("shift", state.shift.name) : "";
  at("serving").textContent = [chosen.camera, chosen.recipe, shift].filter(Boolean).join(" · ");
  const waiting = state.shift?.open_reviews ?? 0;
  const link = at("views").querySelector("[data-view=review]");
  if (link) link.textContent = waiting ? `${word("view_review")} (${waiting})` : word("view_review");
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

at("language").addEventListener("change", () => { setLanguage(at("language").value); buildBar(); show(); });
at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "light" ? "dark" : "light"));
at("skip").addEventListener("click", () => at("view").focus());
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(at("key").value);
  at("key-form").hidden = true;
  show();
});
whenRefused(() => { at("key-form").hidden = false; at("key").value = key() ?? ""; });
addEventListener("hashchange", () => { show(); at("view").focus({ preventScroll: true }); });

if (parameters.has("language")) setLanguage(parameters.get("language"));
const preferred = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
setTheme(parameters.get("theme") ?? localStorage.getItem("theme") ?? preferred);
document.body.classList.toggle("kiosk", !["0", null].includes(parameters.get("kiosk")));
// What is refused here is said by the view.
await choose(parameters.get("camera") ?? "", parameters.get("recipe") ?? "").catch(() => {});
buildBar();
show();
follow({
  state(state) {
    showState(state);
    shown.state?.(state);
  },
  inspection(entry) { shown.inspection?.(entry); },
});
setInterval(() => { at("clock").textContent = clock(Date.now()); shown.tick?.(); }, 500);
