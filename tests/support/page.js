"use strict";
// The script of the operator's page on a made-up document and service. Pictures are dropped, and answered when and in the
// order that a line of `steps` says: "drop A", "answer A OK", "fail A", "keep A". Prints what is shown after each step.
const { readFileSync } = require("node:fs");
const { runInNewContext } = require("node:vm");

class Element {
  constructor() {
    Object.assign(this, { hidden: true, value: "part", src: "", listeners: {}, tBodies: [this] });
    this.style = { setProperty() {} };
    this.classList = { toggle() {} };
  }
  addEventListener(kind, listener) { this.listeners[kind] = listener; }
  removeAttribute(name) { this[name] = ""; }
  setAttribute() {}
  replaceChildren() {}
  append() {}
  insertCell() { return new Element(); }
  getContext() { return { drawImage: (picture) => { this.drawn ??= picture; } }; }
  toDataURL() { return `masked ${this.drawn}`; }
}

const elements = {};
const at = (id) => (elements[id] ??= new Element());
const RECIPES = [{ recipe: "part", version: "1", ready: true, golden_images: 0, keep_mask: true }];
const inspections = [];
const masks = [];

function fetch(path, { body } = {}) {
  const reply = (value) => ({ ok: true, status: 200, json: async () => value, blob: async () => "mask" });
  if (path === "readyz") return Promise.resolve(reply({ reason: null }));
  if (path === "recipes") return Promise.resolve(reply(RECIPES));
  return new Promise((resolve, reject) => {
    const answer = { answer: (value) => resolve(reply(value)), fail: () => reject(new Error("gone")) };
    if (path.endsWith("keep.png")) masks.push(answer);
    else inspections.push({ ...answer, name: body.name });
  });
}

runInNewContext(readFileSync(process.argv[2], "utf8"), {
  document: { getElementById: at, createElement: () => new Element() },
  fetch,
  URLSearchParams,
  URL: { createObjectURL: (blob) => blob.name, revokeObjectURL() {} },
  Option: Element,
  createImageBitmap: async (blob) => blob.name ?? blob,
  sessionStorage: { getItem: () => null },
  setInterval() {},
});

const inspected = (verdict, name) => ({
  verdict, score: 0.5, faults: [], regions: [], version: "1", thresholds: { review: 0.3, reject: 0.6 },
  timings_ms: { model: 1, total: 2 }, backend: { name: "fake", precision: "fp32" }, limits: { source: "manifest" },
  heatmap: { media_type: "image/png", data: name },
});

const settled = () => new Promise((resolve) => setImmediate(resolve));

async function main(steps) {
  await settled();
  const dropped = [];
  for (const [what, name, verdict] of steps.map((step) => step.split(" "))) {
    const sent = inspections.find((inspection) => inspection.name === name);
    if (what === "drop") {
      dropped.push(name);
      at("drop").listeners.drop({ preventDefault() {}, dataTransfer: { files: [{ name, type: "image/png" }] } });
    }
    if (what === "answer") sent.answer(inspected(verdict, name));
    if (what === "fail") sent.fail();
    if (what === "keep") masks[dropped.indexOf(name)].answer();
    await settled();
    console.log(JSON.stringify({
      verdict: at("result").hidden ? null : at("verdict").textContent,
      sent: at("pictures").hidden ? null : at("sent").src,
      overlay: at("overlay").src,
    }));
  }
}

main(process.argv.slice(3));
