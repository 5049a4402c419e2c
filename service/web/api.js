// Requests to the service that served this page, below the same path. The key is kept for this tab alone.
import { title } from "./sentences.js";

let refused = () => {};

export const key = () => sessionStorage.getItem("api-key");
export const setKey = (value) => sessionStorage.setItem("api-key", value);
export const whenRefused = (listener) => { refused = listener; };

// The service's own words for what went wrong.
export class Problem extends Error {
  constructor(status, body) {
    super([title(body.code, body.title), body.detail].filter(Boolean).join(": ") || `HTTP ${status}`);
    this.status = status;
  }
}

export async function api(path, options = {}) {
  const headers = { ...options.headers, ...(key() ? { "X-API-Key": key() } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401 || response.status === 403) refused();
  return response;
}

async function checked(path, options) {
  const response = await api(path, options);
  if (!response.ok) throw new Problem(response.status, await response.json().catch(() => ({})));
  return response;
}

export const read = async (path) => (await checked(path)).json();

// A list that goes on: its rows, and the cursor of the next ones.
export async function readPage(path) {
  const response = await checked(path);
  return { rows: await response.json(), next: response.headers.get("X-Next-Cursor") };
}

export async function send(method, path, body) {
  const options = body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await checked(path, options)).json();
}

// `path` with the values that there are; a list is sent as several.
export function withQuery(path, values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== "" && one !== null && one !== undefined) query.append(name, one);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

// An image that needs the key cannot be an <img src>: its bytes are fetched and shown from memory.
export async function showPicture(image, path) {
  const response = await api(path);
  if (!response.ok) return false;
  showBlob(image, await response.blob());
  await image.decode().catch(() => {});
  return true;
}

export function showBlob(image, blob) {
  forget(image);
  image.src = URL.createObjectURL(blob);
}

export function forget(image) {
  if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
}

// A browser downloads a link by itself, without holding it in memory; with a key it cannot.
export async function download(path, name) {
  const link = document.createElement("a");
  link.download = name;
  link.href = key() ? URL.createObjectURL(await (await checked(path)).blob()) : path;
  link.click();
  if (key()) URL.revokeObjectURL(link.href);
}
