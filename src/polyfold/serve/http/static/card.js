// The model card: a small part of Markdown as elements. What is not known stays text, and nothing becomes a link,
// since a card comes from whoever made the model.

import { el } from "./dom.js";

export function drawCard(markdown) {
  const { front, lines } = frontMatter(markdown.replaceAll("\r\n", "\n").split("\n"));
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    const [node, next] = block(lines, at);
    if (node) blocks.push(node);
    at = next;
  }
  if (front.length) {
    blocks.push(
      el("details", {}, el("summary", {}, "Metadata of the card"), el("pre", { tabindex: "0" }, front.join("\n"))),
    );
  }
  return blocks;
}

function frontMatter(lines) {
  const end = lines[0] === "---" ? lines.indexOf("---", 1) : -1;
  return end < 0 ? { front: [], lines } : { front: lines.slice(1, end), lines: lines.slice(end + 1) };
}

const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^\s*(?:[-*+]|(\d+)[.)])\s+(.*)$/;
const RULE = /^\s*\|?\s*:?-{3,}:?\s*(\|\s*:?-{3,}:?\s*)*\|?\s*$/;

// The element that begins on a line, and the line after it.
function block(lines, at) {
  const line = lines[at];
  if (line.trim() === "") return [null, at + 1];
  if (line.startsWith("```")) return fence(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return [el(`h${Math.min(heading[1].length + 2, 6)}`, { dir: "auto" }, inline(heading[2])), at + 1];
  if (line.includes("|") && RULE.test(lines[at + 1] ?? "")) return table(lines, at);
  if (ITEM.test(line)) return list(lines, at);
  return paragraph(lines, at);
}

function fence(lines, at) {
  const end = lines.findIndex((line, place) => place > at && line.startsWith("```"));
  const last = end < 0 ? lines.length : end;
  return [el("pre", { tabindex: "0" }, el("code", {}, lines.slice(at + 1, last).join("\n"))), last + 1];
}

function list(lines, at) {
  const items = [];
  const ordered = Boolean(ITEM.exec(lines[at])[1]);
  let next = at;
  for (; next < lines.length && ITEM.test(lines[next]); next += 1) {
    items.push(el("li", { dir: "auto" }, inline(ITEM.exec(lines[next])[2])));
  }
  return [el(ordered ? "ol" : "ul", {}, items), next];
}

function table(lines, at) {
  const right = cells(lines[at + 1]).map((rule) => (rule.endsWith(":") ? "figure" : null));
  const row = (tag, line) =>
    el(
      "tr",
      {},
      cells(line).map((cell, place) => el(tag, { class: right[place], dir: "auto" }, inline(cell))),
    );
  let next = at + 2;
  const body = [];
  for (; next < lines.length && lines[next].includes("|"); next += 1) body.push(row("td", lines[next]));
  const head = el("thead", {}, row("th", lines[at]));
  return [el("div", { class: "scroll", tabindex: "0" }, el("table", {}, head, el("tbody", {}, body))), next];
}

const cells = (line) =>
  line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());

function paragraph(lines, at) {
  let next = at + 1;
  while (
    next < lines.length &&
    lines[next].trim() !== "" &&
    !HEADING.test(lines[next]) &&
    !lines[next].startsWith("```") &&
    !ITEM.test(lines[next])
  )
    next += 1;
  return [el("p", { dir: "auto" }, inline(lines.slice(at, next).join(" "))), next];
}

// `code`, **strong**, *emphasis*; all else is text, with the escapes that our own cards use undone.
function inline(text) {
  const parts = [];
  let from = 0;
  for (const found of text.matchAll(/(?<!\\)`([^`]+)`|(?<!\\)\*\*(.+?)(?<!\\)\*\*|(?<!\\)\*([^*]+?)(?<!\\)\*/g)) {
    parts.push(plain(text.slice(from, found.index)));
    const [whole, code, strong, emphasis] = found;
    if (code !== undefined) parts.push(el("code", {}, code));
    else if (strong !== undefined) parts.push(el("strong", {}, plain(strong)));
    else parts.push(el("em", {}, plain(emphasis)));
    from = found.index + whole.length;
  }
  return [...parts, plain(text.slice(from))];
}

const plain = (text) =>
  text
    .replace(/\\([\\|*`_#[\]])/g, "$1")
    .replaceAll("&lt;", "<")
    .replaceAll("&gt;", ">")
    .replaceAll("&amp;", "&");
