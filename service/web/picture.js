// The image of a part with its map, the boxes of its regions and a loupe.
import { api, forget, showPicture } from "./api.js";
import { button, make } from "./dom.js";
import { word } from "./words.js";

const LOUPE = 4; // times
const LOUPE_PX = 180;

// The newest parts are in memory, the others among the records.
export function pictureOf(entry, kind) {
  const id = encodeURIComponent(entry.inspection_id);
  if (entry.live) return `events/${id}/${kind}.jpg`;
  return `inspections/${id}/${kind === "overlay" && entry.map !== false ? "overlay" : "preview"}.jpg`;
}

// [height, width] of the image as it was sent; records of earlier versions have it in the image alone.
export async function sizeOf(entry) {
  if (entry.image_size) return entry.image_size;
  const response = await api(`inspections/${encodeURIComponent(entry.inspection_id)}/image`);
  const { width, height } = await createImageBitmap(await response.blob());
  return [height, width];
}

export class Picture {
  // One image at a time is fetched: of those that come meanwhile the last one is next.
  #wanted = null;
  #busy = false;
  #shown = null;

  constructor(prefix) {
    this.image = make("img", { id: `${prefix}-image`, class: "picture", alt: "" });
    this.boxes = make("div", { class: "boxes" });
    this.loupe = make("div", { class: "loupe", hidden: true });
    this.frame = make("div", { class: "frame", hidden: true, title: word("loupe") }, this.image, this.boxes, this.loupe);
    this.none = make("p", { class: "quiet" });
    this.map = button(word("show_map"), () => this.toggle(), { id: `${prefix}-map`, "aria-pressed": "true" });
    this.withMap = true;
    this.frame.addEventListener("pointermove", (event) => this.#enlarge(event));
    this.frame.addEventListener("pointerleave", () => { this.loupe.hidden = true; });
  }

  toggle() {
    this.withMap = !this.withMap;
    this.map.setAttribute("aria-pressed", String(this.withMap));
    if (this.#shown) this.show(this.#shown);
  }

  show(entry) {
    this.#wanted = entry;
    if (!this.#busy) this.#fetch();
  }

  close() {
    this.#wanted = null;
    this.#shown = null;
    forget(this.image);
  }

  async #fetch() {
    this.#busy = true;
    while (this.#wanted) {
      const entry = this.#wanted;
      this.#wanted = null;
      this.#shown = entry;
      this.boxes.replaceChildren();
      const found = entry.image !== false && await showPicture(this.image, pictureOf(entry, this.withMap ? "overlay" : "image")).catch(() => false);
      if (!this.#shown) forget(this.image);
      this.frame.hidden = !found;
      this.none.textContent = found ? "" : word("no_image");
      if (!found) continue;
      this.image.alt = `${word(this.withMap ? "map" : "image")}: ${entry.part_id ?? ""}`;
      this.#mark(entry);
    }
    this.#busy = false;
  }

  #mark({ image_size: size, regions = [] }) {
    if (!size) return;
    this.boxes.replaceChildren(...regions.map((region) => make("i", {
      style: {
        left: `${100 * region.x / size[1]}%`, top: `${100 * region.y / size[0]}%`,
        width: `${100 * region.width / size[1]}%`, height: `${100 * region.height / size[0]}%`,
      },
    })));
  }

  #enlarge(event) {
    const box = this.image.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    this.loupe.hidden = x < 0 || y < 0 || x > box.width || y > box.height;
    Object.assign(this.loupe.style, {
      left: `${x}px`, top: `${y}px`, backgroundImage: `url(${this.image.src})`,
      backgroundSize: `${box.width * LOUPE}px ${box.height * LOUPE}px`,
      backgroundPosition: `${-(x * LOUPE) + LOUPE_PX / 2}px ${-(y * LOUPE) + LOUPE_PX / 2}px`,
    });
  }
}
