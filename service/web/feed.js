// The parts as they are decided, from GET events. What is silent for three seconds is gone: the service says something
// every second.
import { api, readPage, withQuery } from "./api.js";

const SILENT_MS = 3000;
export const KEPT = 24;
export const newest = [];
// Seconds by which the clock of the service is ahead of this machine's.
let ahead = 0;
export const now = () => Date.now() / 1000 + ahead;

export let state = { connected: false, ready: false, reason: "", troubles: [], counters: {} };

// The camera and the recipe that this screen is for; empty: all.
export const chosen = { camera: "", recipe: "" };
export const cameras = new Set();

const wanted = (entry) => (!chosen.camera || entry.camera_id === chosen.camera) && (!chosen.recipe || entry.recipe === chosen.recipe);

// A screen for one camera begins with that camera's last parts, which may be older than the newest of all.
export async function choose(camera, recipe) {
  Object.assign(chosen, { camera, recipe });
  if (camera) cameras.add(camera);
  newest.splice(0, newest.length, ...newest.filter(wanted));
  if (!camera && !recipe) return;
  const { rows } = await readPage(withQuery("inspections", { camera, recipe, limit: KEPT }));
  const live = new Map(newest.map((entry) => [entry.inspection_id, entry]));
  for (const row of rows) if (!live.has(row.inspection_id) && wanted(row)) live.set(row.inspection_id, row);
  const all = [...live.values()].sort((one, other) => one.time - other.time);
  newest.splice(0, newest.length, ...all.slice(-KEPT));
}

// The newest number of each camera, and how many came one after the other without a gap.
const numbers = new Map();
const STEADY = 5;

// Parts that should have come before this one, where a camera's names count up: 0 where they do not, or none is missing.
function missingBefore({ camera_id: camera, part_id: name }) {
  const [, begins, digits] = /^(.*?)(\d{1,15})$/.exec(name ?? "") ?? [];
  const before = numbers.get(camera);
  if (digits === undefined) return 0;
  const number = Number(digits);
  const step = before?.begins === begins ? number - before.number : 0;
  const steady = before?.steady ?? 0;
  numbers.set(camera, { begins, number, steady: step === 1 ? steady + 1 : step > 1 && steady >= STEADY ? STEADY : 0 });
  return step > 1 && steady >= STEADY ? step - 1 : 0;
}

export async function follow(listener) {
  const tell = (change) => { state = { ...state, ...change }; listener.state(state); };
  for (;;) {
    try {
      await listen(listener, tell);
    } catch {
      // The next attempt tells.
    }
    tell({ connected: false, ready: false });
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function listen(listener, tell) {
  const stopped = new AbortController();
  const response = await api("events", { signal: stopped.signal });
  if (!response.ok) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const silent = setTimeout(() => stopped.abort(), SILENT_MS);
    const { value, done } = await reader.read();
    clearTimeout(silent);
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      const [name, data] = event.split("\n").map((line) => line.slice(line.indexOf(":") + 2));
      if (name === "state") {
        const said = JSON.parse(data);
        ahead = said.now - Date.now() / 1000;
        tell({ ...said, connected: true });
      }
      if (name !== "inspection") continue;
      const entry = { ...JSON.parse(data), live: true };
      if (entry.camera_id) cameras.add(entry.camera_id);
      if (!wanted(entry) || newest.some((shown) => shown.inspection_id === entry.inspection_id)) continue;
      entry.missing = missingBefore(entry);
      newest.push(entry);
      if (newest.length > KEPT) newest.shift();
      listener.inspection(entry);
    }
  }
}
