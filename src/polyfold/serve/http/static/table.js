// The answers to many texts: a table in pages, and the file to take away.

import { CsvError, formatCsv } from "./csv.js";
import { el, said } from "./dom.js";
import { drawOutcome } from "./draw.js";
import { count, percent } from "./format.js";
import { decide } from "./outcomes.js";

const PAGE = 100;
const LABEL_DELIMITER = "|"; // as `polyfold predict` joins a multi-label task's labels

export class ResultTable {
  #job;
  #choices;
  #root;
  #page = 0;
  #opened = new Set();
  #expanded = new Set();

  constructor(job, choices, root) {
    this.#job = job;
    this.#choices = choices;
    this.#root = root;
  }

  // Rows `first` to `last` have changed: nothing is to be done where they are on another page.
  drawIfShown(first, last) {
    const start = this.#page * PAGE;
    if (last >= start && first < start + PAGE) this.draw();
  }

  draw() {
    const { documents, outcomes, tasks } = this.#job;
    const first = this.#page * PAGE;
    const last = Math.min(first + PAGE, documents.length);
    const rows = [];
    for (let place = first; place < last; place += 1) {
      rows.push(this.#row(place));
      if (this.#expanded.has(place) && outcomes[place]) rows.push(this.#details(place));
    }
    const focused = this.#root.contains(document.activeElement) ? document.activeElement.dataset.focus : null;
    const scrolled = this.#root.querySelector(".scroll")?.scrollLeft ?? 0;
    this.#root.replaceChildren(
      ...[
        el(
          "div",
          { class: "scroll card", tabindex: "0", role: "region", "aria-label": "Labelled rows" },
          el(
            "table",
            { class: "rows", role: "table" },
            el(
              "thead",
              { role: "rowgroup" },
              el("tr", { role: "row" }, ["Row", "Text", ...tasks.map((task) => task.name)].map(heading)),
            ),
            el("tbody", { role: "rowgroup" }, rows),
          ),
        ),
        documents.length > PAGE && this.#pager(first, last),
      ].filter(Boolean),
    );
    this.#root.querySelector(".scroll").scrollLeft = scrolled;
    if (focused) this.#focus(focused);
  }

  #focus = (name) => this.#root.querySelector(`[data-focus="${name}"]:not(:disabled)`)?.focus();

  #row(place) {
    const { documents, outcomes, tasks } = this.#job;
    const outcome = outcomes[place];
    const open = this.#expanded.has(place);
    const number = el(
      "button",
      {
        type: "button",
        class: "quiet small",
        disabled: !outcome || outcome.error !== null,
        "aria-expanded": String(open),
        "aria-label": `Probabilities of row ${place + 1}`,
        "data-focus": `row-${place}`,
        onclick: () => this.#expand(place),
      },
      count(place + 1),
    );
    const flag = outcome?.error
      ? el("span", { class: "flag bad" }, `Not labelled: ${outcome.error}`)
      : outcome?.truncated && el("span", { class: "flag", title: "Longer than the model reads" }, "truncated");
    return el(
      "tr",
      { class: outcome ? null : "waiting", role: "row" },
      cell({}, number),
      cell({ class: "text" }, said("span", documents[place], "said clamped"), flag),
      tasks.map((task) =>
        cell({ "data-name": task.name }, outcome && !outcome.error ? this.#labels(task, outcome) : null),
      ),
    );
  }

  #labels(task, outcome) {
    return decide(task, outcome, this.#choices.threshold(task)).map((label) =>
      el(
        "span",
        { class: "chip" },
        label,
        " ",
        el("small", {}, percent(outcome.probabilities[task.name][task.labels.indexOf(label)])),
      ),
    );
  }

  #details(place) {
    const { outcomes, tasks } = this.#job;
    const shown = { tasks, threshold: this.#choices.threshold };
    return el(
      "tr",
      { class: "details", role: "row" },
      cell({ colspan: tasks.length + 2 }, drawOutcome(outcomes[place], shown, this.#opened, place)),
    );
  }

  #expand(place) {
    if (!this.#expanded.delete(place)) this.#expanded.add(place);
    this.draw();
  }

  #pager(first, last) {
    const total = this.#job.documents.length;
    const go = (name, step, possible) =>
      el(
        "button",
        { type: "button", disabled: !possible, "data-focus": name, onclick: () => this.#turn(step, name) },
        name,
      );
    return el(
      "nav",
      { class: "pager", "aria-label": "Pages of the table" },
      go("Previous", -1, first > 0),
      el("span", {}, `Rows ${count(first + 1)} to ${count(last)} of ${count(total)}`),
      go("Next", 1, last < total),
    );
  }

  #turn(step, name) {
    this.#page += step;
    this.draw();
    this.#root.querySelector(".scroll").scrollTop = 0;
    if (!this.#root.contains(document.activeElement)) this.#focus(name === "Next" ? "Previous" : "Next");
  }
}

// Roles are said, since on a narrow screen the rows are laid out as blocks, which takes the table's own away.
const heading = (name) => el("th", { scope: "col", role: "columnheader" }, name);
const cell = (attributes, ...children) => el("td", { role: "cell", ...attributes }, ...children);

// The sheet as it came, with a column for each task and, if wanted, for each label's probability. Rows that were
// not reached have nothing in them.
export function labelledCsv(job, thresholdOf) {
  const { sheet, withProbabilities } = job;
  const names = job.tasks.flatMap((task) => [
    task.name,
    ...(withProbabilities ? task.labels.map((label) => `${task.name}:${label}`) : []),
  ]);
  const header = [...sheet.header, ...fresh([...names, "truncated", "error"], sheet.header)];
  const rows = sheet.rows.map((cells, place) => [...cells, ...values(job, job.outcomes[place], thresholdOf)]);
  return (sheet.bom ? "\ufeff" : "") + formatCsv([header, ...rows], sheet.delimiter);
}

function values({ tasks, withProbabilities }, outcome, thresholdOf) {
  const usable = outcome && !outcome.error;
  const labels = tasks.flatMap((task) => [
    usable ? joined(task, decide(task, outcome, thresholdOf(task))) : "",
    ...(withProbabilities
      ? task.labels.map((_, place) => (usable ? outcome.probabilities[task.name][place].toFixed(6) : ""))
      : []),
  ]);
  return [...labels, usable ? String(outcome.truncated) : "", outcome?.error ?? ""];
}

function joined(task, labels) {
  const clash = task.kind === "multi_label" && labels.find((label) => label.includes(LABEL_DELIMITER));
  if (clash)
    throw new CsvError(
      `The label '${clash}' holds the sign that joins labels in a cell.`,
      "Use polyfold predict with another --label-delimiter.",
    );
  return labels.join(LABEL_DELIMITER);
}

// Names that the sheet does not have yet.
function fresh(names, taken) {
  const known = new Set(taken);
  return names.map((name) => {
    let free = name;
    for (let number = 2; known.has(free); number += 1) free = `${name}_${number}`;
    known.add(free);
    return free;
  });
}

// A cell that a spreadsheet program would take for a formula.
export const hasFormula = (sheet) => sheet.rows.some((cells) => cells.some((cell) => /^[=+\-@]/.test(cell)));
