// One text's answer as elements: for each task its labels, with bars.

import { el, said, sized } from "./dom.js";
import { milliseconds, percent } from "./format.js";
import { decide, ranked } from "./outcomes.js";

const MOST_BARS = 8; // of a task with more labels, so many and one to spare are shown at first

// The cards of a few texts. `opened` remembers which tasks show all their labels, over redraws.
export function drawCards(documents, outcomes, choices, opened) {
  return documents.map((text, place) =>
    el(
      "article",
      { class: "card outcome", "aria-label": `Text ${place + 1}` },
      said("p", text, "said text"),
      drawOutcome(outcomes[place], choices, opened, place),
    ),
  );
}

export function drawOutcome(outcome, { tasks, threshold }, opened, place) {
  if (outcome.error) return el("p", { class: "flag bad" }, `Not labelled: ${outcome.error}`);
  return [
    outcome.truncated &&
      el("p", { class: "flag" }, "Longer than the model reads: the end of this text was not looked at."),
    el(
      "div",
      { class: "tasks" },
      tasks.map((task) => drawTask(task, outcome, threshold(task), opened, place)),
    ),
  ];
}

function drawTask(task, outcome, threshold, opened, place) {
  const chosen = new Set(decide(task, outcome, threshold));
  const rows = ranked(task, outcome, threshold);
  const key = `${place} ${task.name}`;
  const all = rows.length <= MOST_BARS + 1 || opened.has(key);
  const list = el(
    "ul",
    { class: "bars" },
    rows.slice(0, all ? rows.length : MOST_BARS).map((row) => bar(row, chosen)),
  );
  const more =
    !all &&
    el("button", { type: "button", class: "quiet small" }, `Show all ${rows.length} labels of ${task.name}`);
  if (more) {
    more.addEventListener("click", () => {
      opened.add(key);
      list.append(...rows.slice(MOST_BARS).map((row) => bar(row, chosen)));
      list.children[MOST_BARS].tabIndex = -1;
      list.children[MOST_BARS].focus();
      more.remove();
    });
  }
  const names = [...chosen];
  return el(
    "section",
    { class: "task", "data-task": task.name },
    el(
      "h3",
      {},
      el("span", { class: "task-name" }, task.name),
      " ",
      names.length
        ? names.map((name) => el("span", { class: "chip" }, name))
        : el("span", { class: "note" }, "none of its labels"),
    ),
    list,
    more,
  );
}

function bar({ label, probability, threshold }, chosen) {
  const is = chosen.has(label);
  const mark = threshold !== null && el("span", { class: "mark", title: `threshold ${threshold.toFixed(2)}` });
  if (mark) mark.style.insetInlineStart = `${threshold * 100}%`;
  return el(
    "li",
    { class: is ? "is" : null, title: `${label}: ${probability.toFixed(4)}` },
    el(
      "span",
      { class: "label" },
      is && el("span", { class: "tick", "aria-hidden": "true" }, "✓ "),
      label,
      is && el("span", { class: "hidden" }, " (chosen)"),
    ),
    el("span", { class: "track", "aria-hidden": "true" }, sized(el("span", { class: "fill" }), probability), mark),
    el("span", { class: "share" }, percent(probability)),
  );
}

const PART_NAMES = { queue: "queue", tokenize: "tokenizing", infer: "inference" };

// Where one request's time went: the server's own parts and, as the rest, HTTP and the network.
export function drawTiming(found) {
  const known = found.parts.filter((part) => part.name in PART_NAMES);
  const rest = Math.max(found.roundTripMs - known.reduce((sum, part) => sum + part.ms, 0), 0);
  const parts = [
    ...known.map((part) => ({ ...part, title: PART_NAMES[part.name] })),
    { name: "rest", ms: rest, title: "HTTP, network, page" },
  ];
  return el(
    "div",
    { class: "timing" },
    el("p", {}, el("strong", {}, milliseconds(found.roundTripMs)), " round trip"),
    el(
      "div",
      { class: "stack", "aria-hidden": "true" },
      parts.map((part) => sized(el("span", { class: part.name }), part.ms / found.roundTripMs)),
    ),
    el(
      "ul",
      { class: "legend" },
      parts.map((part) =>
        el(
          "li",
          {},
          el("span", { class: `swatch ${part.name}`, "aria-hidden": "true" }),
          `${part.title} `,
          el("b", {}, milliseconds(part.ms)),
        ),
      ),
    ),
  );
}
