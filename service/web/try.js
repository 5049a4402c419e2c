"use strict";

const at = (id) => document.getElementById(id);
const percent = (value) => `${(100 * Math.min(1, value)).toFixed(1)}%`;

const EXPLANATIONS = {
  OK: "The part looks like the good parts the recipe was trained on.",
  REVIEW: "Between good and bad: a person should look at this part.",
  NG: "The part does not look like a good one.",
};

function explain(reply) {
  if (reply.score === undefined) return `${reply.title ?? "Error"}: ${reply.detail}`;
  return reply.faults.length ? `The picture is not fit to be judged. ${reply.faults.join("; ")}.` : EXPLANATIONS[reply.verdict];
}

let recipes = [];
// Counts the pictures that were sent: what arrives for an earlier one must not be shown beside a later one.
let turn = 0;

// With API keys the page asks for one; it is kept for this tab only.
async function api(path, options = {}) {
  const key = sessionStorage.getItem("api-key");
  const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) at("key").hidden = at("key-label").hidden = false;
  return response;
}

async function refreshStation() {
  try {
    const ready = await (await api("readyz")).json();
    const found = await (await api("recipes")).json();
    at("station").textContent = ready.reason ? `not ready: ${ready.reason}` : "ready";
    at("station").className = ready.reason ? "not-ready" : "ready";
    if (JSON.stringify(found) !== JSON.stringify(recipes)) {
      recipes = found;
      showRecipes();
    }
  } catch {
    at("station").textContent = "no connection to the service";
    at("station").className = "not-ready";
  }
}

function showRecipes() {
  const chosen = at("recipe").value;
  at("recipe").replaceChildren(...recipes.map((recipe) => {
    const option = new Option(recipe.ready ? `${recipe.recipe} · version ${recipe.version}` : `${recipe.recipe} · not ready`, recipe.recipe);
    option.disabled = !recipe.ready;
    return option;
  }));
  if (recipes.some((recipe) => recipe.recipe === chosen && recipe.ready)) at("recipe").value = chosen;
  showExamples();
}

function showExamples() {
  const recipe = recipes.find((candidate) => candidate.recipe === at("recipe").value);
  const count = recipe?.ready ? recipe.golden_images : 0;
  at("examples-title").hidden = count === 0;
  at("examples").replaceChildren(...Array.from({ length: count }, (_, index) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    image.alt = `example ${index + 1}`;
    button.append(image);
    loadExample(`recipes/${encodeURIComponent(recipe.recipe)}/golden/${index}.png`, image, button);
    return button;
  }));
}

async function loadExample(path, image, button) {
  const response = await api(path);
  if (!response.ok) return;
  const blob = await response.blob();
  image.src = URL.createObjectURL(blob);
  button.addEventListener("click", () => inspect(blob));
}

// Where the recipe ignores anomalies the picture is darkened: nobody should wait for a verdict on those places.
async function showSent(blob, name, mine) {
  URL.revokeObjectURL(at("sent").src);
  at("sent").src = URL.createObjectURL(blob);
  const masked = recipes.find((recipe) => recipe.recipe === name)?.keep_mask ?? false;
  at("masked").hidden = !masked;
  if (!masked) return;
  const response = await api(`recipes/${encodeURIComponent(name)}/keep.png`);
  if (!response.ok) return;
  const [picture, keep] = await Promise.all([createImageBitmap(blob), createImageBitmap(await response.blob())]);
  if (mine !== turn) return;
  const canvas = document.createElement("canvas");
  const scale = Math.min(1, 1024 / Math.max(picture.width, picture.height));
  canvas.width = Math.round(picture.width * scale);
  canvas.height = Math.round(picture.height * scale);
  const pen = canvas.getContext("2d");
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "multiply";
  pen.globalAlpha = 0.7;
  pen.drawImage(keep, 0, 0, canvas.width, canvas.height);
  at("sent").src = canvas.toDataURL();
}

async function inspect(blob) {
  const mine = ++turn;
  const query = new URLSearchParams({ recipe: at("recipe").value, heatmap: "overlay" });
  at("result").hidden = at("pictures").hidden = true;
  at("overlay").removeAttribute("src");
  showSent(blob, at("recipe").value, mine);
  try {
    const response = await api(`inspect?${query}`, {
      method: "POST",
      body: blob,
      headers: { "Content-Type": blob.type || "application/octet-stream" },
    });
    const reply = await response.json();
    if (mine === turn) show(reply);
  } catch (error) {
    if (mine === turn) show({ verdict: "NOT_INSPECTED", detail: `no answer from the service (${error.message})` });
  }
}

function show(reply) {
  const inspected = reply.score !== undefined;
  at("result").hidden = false;
  at("result").className = reply.verdict;
  at("verdict").textContent = reply.verdict.replace("_", " ");
  at("explanation").textContent = explain(reply);
  at("scale").hidden = at("figures").hidden = at("pictures").hidden = !inspected;
  at("regions").hidden = !inspected || reply.regions.length === 0;
  if (!inspected) return;
  const { review, reject } = reply.thresholds;
  at("scale").style.setProperty("--review-at", percent(review));
  at("scale").style.setProperty("--reject-at", percent(reject));
  at("scale").style.setProperty("--score-at", percent(reply.score));
  at("scale").setAttribute("aria-label", `score ${reply.score.toFixed(3)}, review from ${review.toFixed(3)}, reject from ${reject.toFixed(3)}`);
  showFigures({
    "Score": reply.score.toFixed(4),
    "Review from": review.toFixed(4),
    "Reject from": reject.toFixed(4),
    "Regions": reply.regions.length,
    "Model": `${reply.timings_ms.model.toFixed(1)} ms`,
    "Total": `${reply.timings_ms.total.toFixed(1)} ms`,
    "Backend": `${reply.backend.name} ${reply.backend.precision}`,
    "Version": reply.version,
    ...(reply.limits.source === "changed" ? { "Limits changed": `${reply.limits.changed} by ${reply.limits.by}` } : {}),
  });
  showRegions(reply.regions);
  at("overlay").src = `data:${reply.heatmap.media_type};base64,${reply.heatmap.data}`;
}

function showRegions(regions) {
  at("regions").tBodies[0].replaceChildren(...regions.slice(0, 8).map((region) => {
    const row = document.createElement("tr");
    for (const text of [`${region.x}, ${region.y}`, `${region.width} × ${region.height}`, `${region.area} px`, region.peak.toFixed(2)]) {
      row.insertCell().textContent = text;
    }
    return row;
  }));
}

function showFigures(figures) {
  at("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const pair = document.createElement("div");
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = name;
    description.textContent = value;
    pair.append(term, description);
    return pair;
  }));
}

at("key").addEventListener("change", () => { sessionStorage.setItem("api-key", at("key").value); showExamples(); });
at("recipe").addEventListener("change", showExamples);
at("file").addEventListener("change", () => at("file").files[0] && inspect(at("file").files[0]));
at("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") at("file").click(); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) inspect(event.dataTransfer.files[0]);
  });
}

refreshStation();
setInterval(refreshStation, 3000);
