// Requests to the service that served this page, below the same path. The key is kept for this tab alone.
let refused = () => {};

export const key = () => sessionStorage.getItem("api-key");
export const setKey = (value) => sessionStorage.setItem("api-key", value);
export const whenRefused = (listener) => { refused = listener; };

export async function api(path, options = {}) {
  const headers = { ...options.headers, ...(key() ? { "X-API-Key": key() } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401 || response.status === 403) refused();
  return response;
}

// An image that needs the key cannot be an <img src>: its bytes are fetched and shown from memory.
export async function showPicture(image, path) {
  const response = await api(path);
  if (!response.ok) return false;
  const address = URL.createObjectURL(await response.blob());
  const before = image.src;
  image.src = address;
  await image.decode().catch(() => {});
  if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  return true;
}
