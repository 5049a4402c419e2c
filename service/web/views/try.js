// Try: one image, dropped or chosen, is inspected and shown with its map. Nothing else is asked of the line.
import { api, forget, read, showBlob, withQuery } from "../api.js";
import { button, choice, facts, field, make } from "../dom.js";
import { scale } from "../scale.js";
import { person } from "../sentences.js";
import { explain, shape } from "../verdict.js";
import { figure, time, word } from "../words.js";

const KINDS = "image/jpeg,image/png,image/bmp,image/webp,image/tiff";
const LONGEST_PX = 1024;

let parts = null;
let recipes = [];
// Counts the images that were sent: a reply to an earlier one must not be shown beside a later one.
let turn = 0;

export async function enter(root) {
  turn += 1;
  const p = (parts = {
    recipe: make("select", { id: "try-recipe" }), file: make("input", { id: "try-file", type: "file", accept: KINDS, class: "unseen" }), examples: make("div", { class: "row", id: "try-examples" }),
    result: make("section", { id: "try-result", hidden: true, role: "status" }), pictures: make("div", { id: "try-pictures", class: "charts", hidden: true }),
    sent: make("img", { id: "try-sent", class: "picture", alt: word("image") }), overlay: make("img", { id: "try-overlay", class: "picture", alt: word("map") }), masked: make("span", { hidden: true }, ` · ${word("masked")}`),
  });
  const drop = make("label", { id: "try-drop", for: "try-file" }, make("strong", {}, word("drop_here")), make("span", { class: "quiet" }, word("drop_kinds")));
  p.file.addEventListener("change", () => { if (p.file.files[0]) inspect(p.file.files[0]); p.file.value = ""; });
  for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) inspect(event.dataTransfer.files[0]);
  });
  p.recipe.addEventListener("change", showExamples);
  p.pictures.append(make("section", {}, make("h3", {}, word("image"), p.masked), p.sent), make("section", {}, make("h3", {}, word("map")), p.overlay));
  root.append(make("div", { id: "try" }, make("section", { id: "try-input" }, field(word("recipe"), p.recipe), p.file, drop, make("p", { class: "quiet" }, word("examples")), p.examples), make("div", { class: "column" }, p.result, p.pictures)));
  const found = await read("recipes").catch(() => []);
  if (p !== parts) return;
  recipes = found;
  p.recipe.replaceChildren(...choice("", recipes.map((one) => [one.recipe, `${one.recipe} ${one.ready ? one.version : `(${word("not_ready")})`}`]), "").children);
  // An option that is moved to another list is not chosen there.
  p.recipe.value = (recipes.find((one) => one.default) ?? recipes.find((one) => one.ready) ?? recipes[0])?.recipe ?? "";
  showExamples();
}

export function leave() {
  for (const image of [parts.sent, parts.overlay, ...parts.examples.querySelectorAll("img")]) forget(image);
  parts = null;
}

const chosen = () => recipes.find((one) => one.recipe === parts.recipe.value);

function showExamples() {
  const recipe = chosen();
  for (const image of parts.examples.querySelectorAll("img")) forget(image);
  // Of a recipe with a crop they are parts of photos, which would be cropped again.
  parts.examples.replaceChildren(...Array.from({ length: recipe?.ready && !recipe.crop ? recipe.golden_images : 0 }, (_, index) => example(recipe.recipe, index)));
}

function example(recipe, index) {
  const image = make("img", { alt: word("example", index + 1) });
  const press = button("", () => {}, { class: "example" });
  press.append(image);
  api(`recipes/${encodeURIComponent(recipe)}/golden/${index}.png`).then(async (response) => {
    if (!response.ok) return;
    const blob = await response.blob();
    showBlob(image, blob);
    press.addEventListener("click", () => inspect(blob));
  }).catch(() => {});
  return press;
}

// Where the recipe ignores anomalies the image is darkened: nobody should wait for a verdict on those places.
async function showSent(blob, recipe, mine) {
  const p = parts;
  showBlob(p.sent, blob);
  p.masked.hidden = !recipe?.keep_mask && !recipe?.crop;
  if (p.masked.hidden) return;
  const response = recipe.keep_mask && await api(`recipes/${encodeURIComponent(recipe.recipe)}/keep.png`);
  if (response && !response.ok) return;
  const [image, keep] = await Promise.all([createImageBitmap(blob), response && createImageBitmap(await response.blob())]);
  const seen = recipe.crop ?? { left: 0, top: 0, width: 1, height: 1 };
  const canvas = make("canvas");
  const share = Math.min(1, LONGEST_PX / Math.max(image.width, image.height));
  Object.assign(canvas, { width: Math.round(image.width * share), height: Math.round(image.height * share) });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  Object.assign(pen, { globalCompositeOperation: "multiply", globalAlpha: 0.7 });
  const box = [seen.left * canvas.width, seen.top * canvas.height, seen.width * canvas.width, seen.height * canvas.height];
  if (keep) pen.drawImage(keep, ...box);
  // All but the box.
  pen.beginPath();
  pen.rect(0, 0, canvas.width, canvas.height);
  pen.rect(...box);
  pen.fill("evenodd");
  const darkened = await new Promise((resolve) => { canvas.toBlob(resolve); });
  if (mine === turn && p === parts) showBlob(p.sent, darkened);
}

async function inspect(blob) {
  const mine = (turn += 1);
  const p = parts;
  const recipe = chosen();
  p.result.hidden = p.pictures.hidden = true;
  p.overlay.removeAttribute("src");
  // A browser that cannot show the image (TIFF) still sends it.
  showSent(blob, recipe, mine).catch(() => {});
  let reply;
  try {
    const path = withQuery("inspect", { recipe: recipe?.recipe, heatmap: "overlay" });
    reply = await (await api(path, { method: "POST", body: blob, headers: { "Content-Type": blob.type || "application/octet-stream" } })).json();
  } catch (error) {
    reply = { verdict: "NOT_INSPECTED", detail: `${word("no_connection")} (${error.message})` };
  }
  if (mine === turn && p === parts) show(reply);
}

function show(reply) {
  const p = parts;
  const inspected = reply.score !== undefined;
  p.result.hidden = false;
  p.result.className = `verdict ${reply.verdict}`;
  p.pictures.hidden = !inspected;
  p.result.replaceChildren(...[make("p", { id: "try-verdict" }, make("span", { "aria-hidden": "true" }, shape(reply.verdict)), ` ${word(reply.verdict)}`), make("p", {}, explain(reply)), scale(reply),
    inspected && facts([[word("score"), figure(reply.score, 4)], [word("regions"), String(reply.regions.length)], [word("latency"), `${figure(reply.timings_ms.total, 1)} ms`],
      [word("backend"), `${reply.backend.name} ${reply.backend.precision}`], [word("version"), reply.version], [word("limits"), reply.limits.source === "changed" ? word("limits_changed", time(new Date(reply.limits.changed) / 1000), person(reply.limits.by)) : null]])].filter(Boolean));
  if (inspected) p.overlay.src = `data:${reply.heatmap.media_type};base64,${reply.heatmap.data}`;
}
