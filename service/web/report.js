// The report of a recipe version inside the page. The report is a page of its own with inline styles, which the
// service's content policy allows to scripts only: its sheet is applied by one, its scripts never run.
import { api } from "./api.js";
import { make } from "./dom.js";

export async function report(path) {
  const response = await api(path);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).detail ?? `HTTP ${response.status}`);
  // Taken out before anything is parsed: already there the policy would refuse, and complain of, each of them.
  const rules = [];
  const text = (await response.text())
    .replaceAll(/<style[^>]*>([^]*?)<\/style>/gi, (_, rule) => { rules.push(rule); return ""; })
    .replaceAll(/<script[^]*?<\/script>/gi, "")
    .replaceAll(/\sstyle="/gi, ' data-style="');
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const element of page.querySelectorAll("script, iframe, object, embed, link, base, meta")) element.remove();
  const holder = make("div", { class: "report", lang: "en" });
  const shadow = holder.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  // The page has a theme of its own, whatever the browser prefers.
  const dark = document.documentElement.dataset.theme === "dark" ? "all" : "not all";
  sheet.replaceSync(rules.join("\n").replaceAll("(prefers-color-scheme: dark)", dark).replaceAll(/(^|[\s,}])(:root|html|body)(?=[\s,{])/g, "$1:host"));
  shadow.adoptedStyleSheets = [sheet];
  shadow.append(...document.adoptNode(page.body).childNodes);
  for (const element of shadow.querySelectorAll("[data-style]")) element.style.cssText = element.dataset.style;
  return holder;
}
