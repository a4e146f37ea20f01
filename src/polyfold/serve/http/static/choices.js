// Which model, version and tasks are asked, and the thresholds of multi-label tasks.

import { el } from "./dom.js";
import { plural } from "./format.js";

const ROUTED = "";

export class Choices {
  #root;
  #changed;
  #models = [];
  #name = null;
  #version = ROUTED;
  #skipped = new Set(); // names of tasks not asked, kept over a change of model
  #thresholds = new Map(); // task name -> what the user set for all its labels

  // `changed()` is called after every choice; `readCard(model)` when the card is asked for.
  constructor(root, { changed, readCard }) {
    this.#root = root;
    this.#changed = changed;
    this.readCard = readCard;
  }

  // The service's list; choices that still exist stay.
  setModels(models) {
    this.#models = models;
    if (!models.some((one) => one.name === this.#name)) this.#name = models[0]?.name ?? null;
    if (!this.#versions().some((one) => one.version === this.#version)) this.#version = ROUTED;
    this.#draw();
  }

  // The version whose tasks and card are shown: the chosen one or, if routing decides, the one with most traffic.
  get model() {
    const versions = this.#versions();
    const chosen = versions.find((one) => one.version === this.#version);
    return chosen ?? versions.toSorted((one, other) => other.share - one.share)[0] ?? null;
  }

  get tasks() {
    return this.#asked(this.model?.tasks ?? []);
  }

  // The same of the version that answered, where routing decided.
  tasksOf(version) {
    const answered = this.#versions().find((one) => one.version === version);
    return answered ? this.#asked(answered.tasks) : this.tasks;
  }

  threshold = (task) => this.#thresholds.get(task.name) ?? null;

  // What goes to the service beside the texts. Thresholds do not: the page decides by them as they move.
  get request() {
    const request = { model: this.#name, probabilities: true };
    if (this.#version !== ROUTED) request.version = this.#version;
    if (this.tasks.length < this.model.tasks.length) request.tasks = this.tasks.map((task) => task.name);
    return request;
  }

  // The same for someone who asks without this page.
  get fullRequest() {
    const set = this.tasks.filter((task) => task.kind === "multi_label" && this.threshold(task) !== null);
    const thresholds = Object.fromEntries(set.map((task) => [task.name, this.threshold(task)]));
    return { ...this.request, ...(set.length ? { thresholds } : {}) };
  }

  #asked(tasks) {
    const asked = tasks.filter((task) => !this.#skipped.has(task.name));
    return asked.length ? asked : tasks;
  }

  #versions = () => this.#models.filter((one) => one.name === this.#name);

  #draw() {
    const { model } = this;
    if (!model) {
      this.#root.replaceChildren(el("p", { class: "note" }, "The server has no model loaded."));
      return;
    }
    const names = [...new Set(this.#models.map((one) => one.name))];
    const versions = this.#versions();
    const sliders = this.tasks.filter((task) => task.kind === "multi_label").map((task) => this.#slider(task));
    this.#root.replaceChildren(
      ...[
        names.length > 1 &&
          select(
            "Name",
            names.map((name) => [name, name]),
            this.#name,
            (name) => this.#choose(name, ROUTED),
          ),
        versions.length > 1 &&
          select("Version", versionOptions(versions), this.#version, (one) => this.#choose(this.#name, one)),
        facts(model, names.length > 1, versions.length > 1 && this.#version),
        this.#taskList(model),
        ...sliders,
        sliders.length > 0 &&
          el("p", { class: "note" }, "A label applies from its threshold on: the line across its bar."),
        model.card &&
          el(
            "button",
            { type: "button", class: "card-button", onclick: () => this.readCard(model) },
            "Read the model card",
          ),
      ].filter(Boolean),
    );
  }

  #choose(name, version) {
    this.#name = name;
    this.#version = version;
    this.#redraw();
  }

  // Everything is drawn anew, so the focus is put back on what had it.
  #redraw() {
    const focused = document.activeElement?.dataset?.choice;
    this.#draw();
    if (focused) this.#root.querySelector(`[data-choice="${CSS.escape(focused)}"]`)?.focus();
    this.#changed();
  }

  #taskList(model) {
    const boxes = model.tasks.map((task) =>
      el(
        "label",
        { class: "check" },
        el("input", {
          type: "checkbox",
          "data-choice": `task-${task.name}`,
          checked: this.tasks.includes(task),
          onchange: (event) => this.#toggle(task, event.target.checked),
        }),
        el("span", {}, task.name, " ", el("small", {}, plural(task.labels.length, "label"))),
      ),
    );
    return el("fieldset", {}, el("legend", {}, "Tasks"), boxes);
  }

  #toggle(task, asked) {
    if (asked) this.#skipped.delete(task.name);
    else if (this.tasks.length > 1) this.#skipped.add(task.name);
    // The last task stays: a request must ask something.
    this.#redraw();
  }

  #slider(task) {
    const set = this.threshold(task);
    const id = `threshold-${task.name}`;
    const said = el("output", { for: id });
    const reset = el("button", { type: "button", class: "quiet small" }, "Reset");
    const slider = el("input", {
      type: "range",
      id,
      min: 0,
      max: 1,
      step: 0.01,
      value: set ?? middle(task),
      "data-choice": id,
    });
    const show = () => {
      const value = this.threshold(task);
      said.textContent = value === null ? "as tuned" : value.toFixed(2);
      slider.setAttribute("aria-valuetext", said.textContent);
      reset.disabled = value === null;
    };
    slider.addEventListener("input", () => {
      this.#thresholds.set(task.name, slider.valueAsNumber);
      show();
      this.#changed();
    });
    reset.addEventListener("click", () => {
      this.#thresholds.delete(task.name);
      slider.value = middle(task);
      show();
      slider.focus();
      this.#changed();
    });
    reset.setAttribute("aria-label", `Use the tuned thresholds of ${task.name}`);
    show();
    return el(
      "div",
      { class: "threshold" },
      el("label", { for: id }, `Threshold of ${task.name}`),
      said,
      slider,
      reset,
    );
  }
}

// Where the slider stands before it is moved.
const middle = (task) => {
  const tuned = Object.values(task.thresholds ?? {});
  return tuned.length ? tuned.reduce((sum, one) => sum + one, 0) / tuned.length : 0.5;
};

function versionOptions(versions) {
  const role = (one) => (one.shadow ? "shadow" : `${Math.round(one.share)} %`);
  return [[ROUTED, "as routed"], ...versions.map((one) => [one.version, `${one.version} (${role(one)})`])];
}

function select(name, options, chosen, choose) {
  const choice = `select-${name}`;
  return el(
    "label",
    { class: "field" },
    el("span", {}, name),
    el(
      "select",
      { "data-choice": choice, onchange: (event) => choose(event.target.value) },
      options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)),
    ),
  );
}

// The chosen name and version are shown where they are chosen; so only what is not chosen stands here.
function facts(model, nameChosen, version) {
  const known = [
    ["Name", nameChosen ? null : model.name],
    ["Version", version === false ? model.version : null],
    ["Mostly", version === ROUTED ? `version ${model.version}` : null],
    ["Runtime", [model.runtime, model.precision].filter(Boolean).join(", ")],
    ["Reads", model.max_length ? `up to ${plural(model.max_length, "token")}` : null],
    ["Languages", model.languages?.length ? model.languages.join(", ") : null],
  ].filter(([, value]) => value);
  return el(
    "dl",
    { class: "facts" },
    known.map(([what, value]) => [el("dt", {}, what), el("dd", {}, value)]),
  );
}
