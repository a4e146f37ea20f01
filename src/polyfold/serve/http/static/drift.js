// How far the newest texts lie from those the model was tested on, one distribution a line.

import { el, sized } from "./dom.js";
import { count, percent } from "./format.js";

const MOST_VALUES = 8; // of a distribution: those that have moved most

const WORDS = {
  ok: "as tested",
  watch: "moving",
  drifted: "drifted",
  gathering: "gathering",
  "not measured": "not measured",
  "no reference": "no reference",
};

export class DriftPanel {
  #card;
  #root;
  #opened = new Set();
  #drawn = "";
  #last = {};

  constructor(card, root) {
    this.#card = card;
    this.#root = root;
  }

  // The version to show, of the service's newest summary; drawn only if it is another, since it is told often.
  show(model, drift = this.#last) {
    this.#last = drift;
    const found = drift.models?.find((one) => one.model === model?.name && one.version === model?.version);
    this.#card.hidden = !found;
    const now = JSON.stringify(found ?? null);
    if (!found || now === this.#drawn) return;
    this.#drawn = now;
    const focused = this.#root.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.#root.replaceChildren(
      el(
        "p",
        { class: "state", "data-state": found.state },
        el("span", { class: "dot", "aria-hidden": "true" }),
        el("span", {}, WORDS[found.state]),
      ),
      ...(found.reason
        ? [el("p", { class: "note" }, [found.reason, found.hint].filter(Boolean).join("; "), ".")]
        : []),
      ...found.distributions.map((one) => this.#distribution(one, drift.levels)),
    );
    if (focused) this.#root.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #distribution(one, levels) {
    const key = `${one.name} ${one.task ?? ""}`;
    const details = el(
      "details",
      { class: "drift", open: this.#opened.has(key) },
      el(
        "summary",
        { "data-key": key, "data-state": one.state },
        el("span", { class: "dot", "aria-hidden": "true" }),
        el("span", { class: "what" }, one.task ? `${one.task}: ${one.name}` : one.name),
        el(
          "span",
          { class: "share" },
          one.stability_index === null ? WORDS[one.state] : one.stability_index.toFixed(2),
        ),
      ),
      el("p", { class: "note" }, explained(one, levels)),
      one.texts > 0 && values(one),
    );
    details.addEventListener("toggle", () => {
      if (details.open) this.#opened.add(key);
      else this.#opened.delete(key);
    });
    return details;
  }
}

function explained(one, levels) {
  if (one.reason) return `Not measured: ${one.reason}.`;
  if (one.stability_index === null)
    return `${count(one.texts)} of the ${count(one.texts_needed)} texts that a claim needs.`;
  const index = `Stability index ${one.stability_index.toFixed(3)} over ${count(one.texts)} texts`;
  const scale = `(moving from ${levels.watch}, drifted from ${levels.drifted})`;
  return `${index}: ${WORDS[one.state]} ${scale}. Bars are now, lines when tested.`;
}

// What was tested, as a line, against what is served, as a bar.
function values(one) {
  const rows = one.values
    .map((value, place) => ({ value, expected: one.expected[place], served: one.served[place] }))
    .sort((first, second) => Math.abs(second.served - second.expected) - Math.abs(first.served - first.expected))
    .slice(0, MOST_VALUES);
  return el(
    "ul",
    { class: "bars", "aria-label": "Share of the texts now, and when tested" },
    rows.map(({ value, expected, served }) => {
      const mark = el("span", { class: "mark" });
      mark.style.insetInlineStart = `${expected * 100}%`;
      return el(
        "li",
        { title: `${value}: now ${percent(served)}, when tested ${percent(expected)}` },
        el("span", { class: "label" }, value),
        el("span", { class: "track", "aria-hidden": "true" }, sized(el("span", { class: "fill" }), served), mark),
        el(
          "span",
          { class: "share" },
          percent(served),
          el("span", { class: "hidden" }, ` now, ${percent(expected)} when tested`),
        ),
      );
    }),
  );
}
