// Elements are made here, and whatever is shown is set as text: no string ever becomes markup.

export const byId = (id) => document.getElementById(id);

// `el("p", { class: "note", onclick: f }, "text", other)`; null and false, as a value or a child, are left out.
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

// What someone wrote: its direction is its own, its language unknown.
export const said = (tag, text, name = "said") => el(tag, { class: name, dir: "auto", lang: "" }, text);

// A length in per cent of the parent, set by script since the page's policy forbids style attributes.
export function sized(node, share) {
  node.style.inlineSize = `${Math.min(Math.max(share, 0), 1) * 100}%`;
  return node;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return node;
}
