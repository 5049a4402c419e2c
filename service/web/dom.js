// Elements in one line: make("p", { id: "name", style: { left: "3%" } }, "text", child). The service's content policy
// allows styles from scripts, but no style attributes.
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

export const button = (text, onclick, attributes = {}) => make("button", { type: "button", onclick, ...attributes }, text);

export const field = (text, control) => make("label", { class: "field" }, make("span", {}, text), control);

export function choice(name, options, chosen) {
  const select = make("select", { name });
  select.append(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
  return select;
}

// Names and values, one below the other; what has no value is left out.
export const facts = (pairs) => make("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
  .map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));

// A table that is wider than the screen is moved by itself, by keyboard too.
export const scrolling = (label, table) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);

export const trouble = (error) => make("p", { class: "trouble", role: "alert" }, error.message ?? String(error));

// For a screen reader: not on the screen.
export function say(text) {
  document.getElementById("said").textContent = text;
}

// Asks before something changes the line; true where it was confirmed.
export function confirmed(question, yes, no) {
  return new Promise((resolve) => {
    const dialog = make("dialog", { "aria-label": yes }, make("p", {}, question),
      make("form", { method: "dialog", class: "row" }, make("button", { value: "yes", class: "main" }, yes), make("button", { value: "no" }, no)));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
