// History: every recorded part, found by name, time, verdict, camera, recipe or lot; one part with its reviews.
import { download, read, readPage, withQuery } from "../api.js";
import { button, choice, facts, field, make, scrolling, trouble } from "../dom.js";
import { Picture, sizeOf } from "../picture.js";
import { scale } from "../scale.js";
import { person } from "../sentences.js";
import { VERDICTS, badge, explain, served } from "../verdict.js";
import { figure, moment, time, word } from "../words.js";

// The clock of the screen is meant, which may not be the station's.
const asked = (values) => ({ ...values, after: instant(values.after), before: instant(values.before) });
const instant = (text) => (text ? new Date(text).toISOString() : "");

const FIELDS = ["part_id", "camera", "recipe", "lot", "after", "before", "verdict", "reviewed"];
const PAGE = 50;

let picture = null;
let shown = 0;

export function enter(root, [id], query) {
  shown += 1;
  return id ? showPart(root, id) : showList(root, query);
}

export function leave() {
  shown += 1;
  picture?.close();
  picture = null;
}

function showList(root, query) {
  const mine = shown;
  const values = Object.fromEntries(FIELDS.map((name) => [name, query.get(name) ?? ""]));
  const input = (name, type = "text") => make("input", { name, type, value: values[name], autocomplete: "off", ...(type === "datetime-local" ? { step: "1" } : {}) });
  const form = make("form", { id: "history-form", class: "fields" },
    field(word("part"), input("part_id")), field(word("after"), input("after", "datetime-local")), field(word("before"), input("before", "datetime-local")),
    field(word("verdict"), choice("verdict", [["", word("all")], ...VERDICTS.map((name) => [name, word(name)])], values.verdict)),
    field(word("camera"), input("camera")), field(word("recipe"), input("recipe")), field(word("lot"), input("lot")),
    field(word("reviewed"), choice("reviewed", [["", word("all")], ["true", word("yes")], ["false", word("no")]], values.reviewed)),
    make("button", { class: "main" }, word("search")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value.trim()));
    const there = `#/history?${wanted}`;
    // The address says what is searched for: it can be kept and sent.
    if (location.hash === there) showRows(list, values, mine);
    else location.hash = there;
  });
  const notice = make("div");
  const list = make("div", { id: "history-list" });
  const save = (kind) => download(withQuery(`inspections/export.${kind}`, asked(values)), `inspections.${kind}`).catch((error) => notice.replaceChildren(trouble(error)));
  root.append(make("div", { class: "column" }, make("section", {}, make("h2", {}, word("view_history")), form),
    make("section", { class: "wide" }, make("div", { class: "row" }, button(word("save_csv"), () => save("csv"), { id: "history-csv" }), button(word("save_zip"), () => save("zip"), { id: "history-zip" })), notice, list)));
  return showRows(list, values, mine);
}

async function showRows(list, values, mine) {
  const body = make("tbody");
  const more = make("div", { class: "row" });
  const table = make("table", { class: "list" }, make("thead", {}, make("tr", {}, ...["time", "verdict", "part", "recipe", "camera", "lot", "score", "last_review"].map((name) => make("th", { scope: "col" }, word(name))))), body);
  list.replaceChildren(scrolling(word("view_history"), table), more);
  const load = async (cursor) => {
    try {
      const { rows, next } = await readPage(withQuery("inspections", { ...asked(values), cursor, limit: PAGE }));
      if (mine !== shown) return;
      body.append(...rows.map(row));
      more.replaceChildren(...(next ? [button(word("more"), () => load(next), { id: "history-more" })] : []), ...(body.children.length ? [] : [make("p", {}, word("nothing_found"))]));
    } catch (error) {
      if (mine === shown) more.replaceChildren(trouble(error));
    }
  };
  await load(null);
}

function row(entry) {
  const address = `#/history/${encodeURIComponent(entry.inspection_id)}`;
  const name = make("a", { href: address }, entry.part_id || word("no_name"));
  const cells = [moment(entry.time), badge(entry.verdict), name, served(entry), entry.camera_id ?? "", entry.lot_id ?? "",
    entry.score === undefined || entry.score === null ? "" : figure(entry.score), entry.review ? badge(entry.review) : entry.open ? word("open") : ""];
  return make("tr", { onclick: (event) => { if (event.target.tagName !== "A") location.hash = address; } }, ...cells.map((cell) => make("td", {}, cell)));
}

async function showPart(root, id) {
  const mine = shown;
  const back = make("a", { href: "#/history", class: "link-button", onclick: (event) => { if (history.length > 1) { event.preventDefault(); history.back(); } } }, `‹ ${word("view_history")}`);
  const holder = make("div", { class: "column" }, make("div", { class: "row" }, back));
  root.append(holder);
  let entry;
  try {
    entry = await read(`inspections/${encodeURIComponent(id)}`);
  } catch (error) {
    if (mine === shown) holder.append(trouble(error));
    return;
  }
  if (entry.regions?.length && entry.image) entry.image_size ??= await sizeOf(entry).catch(() => null);
  if (mine !== shown) return;
  picture = new Picture("part");
  const size = entry.image_size;
  holder.append(make("div", { class: "two" },
    make("section", {}, make("div", { class: "row" }, picture.map, make("a", { class: "link-button", href: `#/review/${encodeURIComponent(id)}` }, word("review_this"))), picture.frame, picture.none),
    make("section", { id: "part-facts" }, make("div", { class: "row" }, badge(entry.verdict), make("b", { class: "name" }, entry.part_id || word("no_name"))), make("p", {}, explain(entry)), scale(entry),
      facts([[word("time"), time(entry.time)], [word("recipe"), served(entry)], [word("camera"), entry.camera_id], [word("lot"), entry.lot_id],
        ...Object.entries(entry.metadata ?? {}), [word("size"), size && `${size[1]} × ${size[0]}`], [word("regions"), String(entry.regions?.length ?? 0)],
        [word("backend"), entry.backend && `${entry.backend.name} ${entry.backend.precision}`], [word("latency"), entry.timings_ms && `${figure(entry.timings_ms.total, 1)} ms`], [word("identity"), entry.inspection_id]]),
      make("h3", {}, word("reviews")), reviews(entry.reviews ?? []))));
  picture.show(entry);
}

function reviews(list) {
  if (!list.length) return make("p", { class: "quiet" }, word("no_reviews"));
  return make("ol", { class: "reviews" }, ...list.map((one) => make("li", {}, badge(one.before), " → ", badge(one.after), make("p", {}, [person(one.by), time(one.time), one.defect_type, one.note,
    one.boxes?.length ? word("boxes", one.boxes.length) : "", one.mask ? word("with_mask") : ""].filter(Boolean).join(" · ")))));
}
