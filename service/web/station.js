// The station's page: which view is shown, in which language; the state of the connection, on every view.
import { key, setKey, whenRefused } from "./api.js";
import { follow } from "./feed.js";
import { languages, language, setLanguage, word } from "./words.js";
import * as live from "./views/live.js";

const at = (id) => document.getElementById(id);
const VIEWS = { live };
const parameters = new URLSearchParams(location.search);

let shown = null;

function translate(root) {
  for (const element of root.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
}

function show() {
  const name = location.hash.slice(2).split("/")[0] || "live";
  const view = VIEWS[name] ?? live;
  shown?.leave();
  shown = view;
  at("view").replaceChildren();
  view.enter(at("view"));
  for (const link of at("views").children) {
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
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
  for (const [name, address] of [["try", "try"], ["api", "docs"]]) {
    const link = document.createElement("a");
    link.href = address;
    link.textContent = word(`view_${name}`);
    links.push(link);
  }
  at("views").replaceChildren(...links);
  at("language").replaceChildren(...Object.entries(languages).map(([code, name]) => new Option(name, code)));
  at("language").value = language();
  at("line").textContent = parameters.get("line") ?? word("title");
  translate(document);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

at("language").addEventListener("change", () => { setLanguage(at("language").value); buildBar(); show(); });
at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "light" ? "dark" : "light"));
at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(at("key").value);
  at("key-form").hidden = true;
  show();
});
whenRefused(() => { at("key-form").hidden = false; at("key").value = key() ?? ""; });
addEventListener("hashchange", show);

setTheme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
document.body.classList.toggle("kiosk", parameters.has("kiosk"));
buildBar();
show();
follow({
  state(state) {
    at("link").className = state.connected && state.ready ? "ready" : "lost";
    at("link").textContent = !state.connected ? word("no_connection") : state.ready ? word("ready") : `${word("not_ready")}: ${state.reason}`;
    shown.state?.(state);
  },
  inspection(entry) { shown.inspection?.(entry); },
});
setInterval(() => { at("clock").textContent = new Date().toLocaleTimeString(language(), { hour: "2-digit", minute: "2-digit" }); shown.tick?.(); }, 500);
