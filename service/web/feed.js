// The parts as they are decided, from GET events. What is silent for three seconds is gone: the service says something
// every second.
import { api } from "./api.js";

const SILENT_MS = 3000;
export const KEPT = 24;
export const newest = [];
// Seconds by which the clock of the service is ahead of this machine's.
let ahead = 0;
export const now = () => Date.now() / 1000 + ahead;

export let state = { connected: false, ready: false, reason: "", counters: {} };

export async function follow(listener) {
  const say = (change) => { state = { ...state, ...change }; listener.state(state); };
  for (;;) {
    try {
      await read(listener, say);
    } catch {
      // The next attempt tells.
    }
    say({ connected: false, ready: false });
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function read(listener, say) {
  const stopped = new AbortController();
  const response = await api("events", { signal: stopped.signal });
  if (!response.ok) return;
  const known = new Set(newest.map((entry) => entry.inspection_id));
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
        say({ ...said, connected: true });
      }
      if (name !== "inspection") continue;
      const entry = JSON.parse(data);
      if (known.has(entry.inspection_id)) continue;
      newest.push(entry);
      if (newest.length > KEPT) newest.shift();
      listener.inspection(entry);
    }
  }
}
