// Where the defect is: boxes and brush strokes on the image of a part, by pointer, touch or keyboard.
import { make } from "./dom.js";
import { base64, greyPng } from "./png.js";
import { word } from "./words.js";

const STEP = 8; // pixels of an arrow key; 1 with Shift
const BRUSH = 0.02; // of the longer side
const COLOUR = "#ff2bd6";
const HEIGHT_VH = 62;
const SHARE = 0.5; // of the colour on the image
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Marking {
  // Everything that was drawn, in order: { kind: "box" | "brush" | "erase", points: [[x, y], …] }.
  #marks = [];
  #begun = null;
  #cursor = null;
  #picture = null;
  #strokes = document.createElement("canvas");

  constructor() {
    this.tool = "box";
    this.canvas = make("canvas", { id: "mark", tabindex: "0", role: "application", "aria-label": word("mark_help") });
    this.canvas.addEventListener("pointerdown", (event) => this.#down(event));
    this.canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => this.#up());
    this.canvas.addEventListener("keydown", (event) => this.#press(event));
    this.canvas.addEventListener("blur", () => { this.#cursor = null; this.#paint(); });
  }

  // The same part with another image keeps its marks.
  load(picture, fresh) {
    this.#picture = picture;
    if (fresh) this.#marks = [];
    const size = picture ? [picture.width, picture.height] : [4, 3];
    for (const canvas of [this.canvas, this.#strokes]) [canvas.width, canvas.height] = size;
    // As high as the screen allows, as wide as its shape asks for.
    this.canvas.style.width = `min(100%, ${(HEIGHT_VH * size[0] / size[1]).toFixed(2)}vh)`;
    this.#paint();
  }

  undo() { this.#begun = null; this.#marks.pop(); this.#paint(); }

  get boxed() { return this.#marks.some((mark) => mark.kind === "box"); }

  // In pixels of the image as it was sent, [height, width].
  boxes([height, width]) {
    const [scaleX, scaleY] = [width / this.canvas.width, height / this.canvas.height];
    return this.#marks.filter((mark) => mark.kind === "box").map(({ points: [[x1, y1], [x2, y2]] }) => {
      const [left, top] = [Math.round(Math.min(x1, x2) * scaleX), Math.round(Math.min(y1, y2) * scaleY)];
      const [right, bottom] = [Math.round(Math.max(x1, x2) * scaleX), Math.round(Math.max(y1, y2) * scaleY)];
      return { x: left, y: top, width: Math.max(1, right - left), height: Math.max(1, bottom - top) };
    });
  }

  // The brush strokes as a PNG in base64; null where there are none.
  async mask() {
    if (!this.#marks.some((mark) => mark.kind === "brush")) return null;
    const { width, height } = this.#strokes;
    const { data } = this.#strokes.getContext("2d").getImageData(0, 0, width, height);
    const values = Uint8Array.from({ length: width * height }, (_, index) => (data[4 * index + 3] >= 128 ? 255 : 0));
    return values.some(Boolean) ? base64(await greyPng(width, height, values)) : null;
  }

  #at(event) {
    const box = this.canvas.getBoundingClientRect();
    const inside = (value, most) => Math.max(0, Math.min(most, value));
    return [inside((event.clientX - box.left) * this.canvas.width / box.width, this.canvas.width), inside((event.clientY - box.top) * this.canvas.height / box.height, this.canvas.height)];
  }

  #begin(point) {
    this.#begun = { kind: this.tool, points: [point, point] };
    this.#marks.push(this.#begun);
    this.#paint();
  }

  #extend(point) {
    if (!this.#begun) return;
    if (this.#begun.kind === "box") this.#begun.points[1] = point;
    else this.#begun.points.push(point);
    this.#paint();
  }

  #down(event) {
    if (!this.#picture || event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#begin(this.#at(event));
  }

  #move(event) { this.#extend(this.#at(event)); }

  #up() {
    if (!this.#begun) return;
    const [[x1, y1], [x2, y2]] = this.#begun.points;
    // A press without a way is no box.
    if (this.#begun.kind === "box" && Math.hypot(x2 - x1, y2 - y1) < 3) this.#marks.pop();
    this.#begun = null;
    this.#paint();
  }

  #press(event) {
    if (!this.#picture) return;
    const way = KEYS[event.key];
    if (way) {
      const step = event.shiftKey ? 1 : STEP;
      const [x, y] = this.#cursor ?? [this.canvas.width / 2, this.canvas.height / 2];
      this.#cursor = [Math.max(0, Math.min(this.canvas.width, x + step * way[0])), Math.max(0, Math.min(this.canvas.height, y + step * way[1]))];
      this.#extend(this.#cursor);
    } else if (event.key === "Enter" || event.key === " ") {
      this.#cursor ??= [this.canvas.width / 2, this.canvas.height / 2];
      if (this.#begun) this.#up();
      else this.#begin(this.#cursor);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    this.#paint();
  }

  #paint() {
    const { width, height } = this.canvas;
    const strokes = this.#strokes.getContext("2d", { willReadFrequently: true });
    strokes.clearRect(0, 0, width, height);
    Object.assign(strokes, { lineWidth: BRUSH * Math.max(width, height), lineCap: "round", lineJoin: "round", strokeStyle: COLOUR });
    for (const { kind, points } of this.#marks) {
      if (kind === "box") continue;
      strokes.globalCompositeOperation = kind === "erase" ? "destination-out" : "source-over";
      strokes.beginPath();
      points.forEach(([x, y], index) => (index ? strokes.lineTo(x, y) : strokes.moveTo(x, y)));
      strokes.stroke();
    }
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    if (this.#picture) pen.drawImage(this.#picture, 0, 0);
    pen.globalAlpha = SHARE;
    pen.drawImage(this.#strokes, 0, 0);
    pen.globalAlpha = 1;
    const line = Math.max(2, width / 250);
    for (const { kind, points: [[x1, y1], [x2, y2]] } of this.#marks) {
      if (kind !== "box") continue;
      for (const [colour, thick] of [["#000", 2 * line], [COLOUR, line]]) {
        Object.assign(pen, { strokeStyle: colour, lineWidth: thick });
        pen.strokeRect(Math.min(x1, x2), Math.min(y1, y2), Math.abs(x2 - x1), Math.abs(y2 - y1));
      }
    }
    if (!this.#cursor) return;
    const [x, y] = this.#cursor;
    for (const [colour, thick] of [["#000", 2 * line], ["#fff", line]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: thick });
      pen.beginPath();
      pen.moveTo(x - 12, y); pen.lineTo(x + 12, y); pen.moveTo(x, y - 12); pen.lineTo(x, y + 12);
      pen.stroke();
    }
  }
}
