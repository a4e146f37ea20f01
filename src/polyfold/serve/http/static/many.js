// Many texts: one job with its progress, its table and the file to take away.

import { sendAll } from "./bulk.js";
import { el } from "./dom.js";
import { count, duration, figure, milliseconds, plural } from "./format.js";
import { emptyOutcome, toOutcome } from "./outcomes.js";
import { hasFormula, labelledCsv, ResultTable } from "./table.js";

export class Many {
  #client;
  #limits;
  #choices;
  #views;
  #job = null;
  #table = null;
  #started = 0;

  // `views`: elements, {outcomes, progress, bar, left}; `say(text)` tells the state; `guarded(work)` runs one
  // thing at a time with a signal to stop, and reports what goes wrong; `report(failure)` shows it.
  constructor(client, limits, choices, { views, say, guarded, report }) {
    this.#client = client;
    this.#limits = limits;
    this.#choices = choices;
    this.#views = views;
    this.say = say;
    this.guarded = guarded;
    this.report = report;
    this.tools = el("div");
    this.rows = el("div");
  }

  // Texts in the order of the rows; `sheet` is where they are from, null if they were typed.
  start(documents, sheet, signal) {
    const job = newJob(documents, sheet, this.#choices);
    this.#job = job;
    this.#table = new ResultTable(job, this.#choices, this.rows);
    this.#views.outcomes.replaceChildren(this.tools, this.rows);
    return this.#goOn(signal);
  }

  redraw = () => {
    this.#drawTools();
    this.#table.draw();
  };

  async #goOn(signal) {
    const job = this.#job;
    this.#started = performance.now();
    const before = job.seconds;
    this.#progress(job.next, "");
    this.#views.progress.hidden = false;
    this.say(`Labelling ${plural(job.texts.length, "text")}.`);
    this.redraw();
    const tell = ({ version, predictions }, start) => {
      if (start === 0) this.#stayWith(version);
      predictions.forEach((one, place) => {
        job.outcomes[job.filled[start + place]] = toOutcome(one, job.tasks);
      });
      job.seconds = before + (performance.now() - this.#started) / 1000;
      this.#progress(start + predictions.length, "");
      this.#table.drawIfShown(job.filled[start], job.filled[start + predictions.length - 1]);
    };
    const waiting = (seconds) => this.#progress(job.next, `the server is busy: waiting ${figure(seconds)} s`);
    let whole = false;
    try {
      await sendAll(this.#client, job, this.#limits, signal, { tell, waiting });
      whole = true;
    } finally {
      job.stopped = !whole;
      this.#views.progress.hidden = true;
      this.#summarize();
      this.redraw();
    }
  }

  // Routing may have decided the first part: one file is labelled by one version.
  #stayWith(version) {
    this.#job.request.version = version;
    this.#job.tasks = this.#choices.tasksOf(version);
  }

  #progress(done, note) {
    const job = this.#job;
    this.#views.bar.max = job.texts.length;
    this.#views.bar.value = done;
    const rest = done ? (job.seconds / done) * (job.texts.length - done) : 0;
    const more = note || (rest >= 2 ? `${duration(rest)} left` : "");
    this.#views.left.textContent = `${count(done)} of ${count(job.texts.length)}${more && `; ${more}`}`;
  }

  #summarize() {
    const job = this.#job;
    const failed = job.outcomes.filter((one) => one?.error).length;
    const refused = job.filled.filter((place) => job.outcomes[place]?.error).length;
    const rest = job.texts.length - job.next;
    this.say(
      `${plural(job.next - refused, "text")} labelled in ${milliseconds(job.seconds * 1000)}` +
        (job.next && job.seconds ? ` (${figure(job.next / job.seconds)} a second)` : "") +
        (rest ? `; stopped before the other ${count(rest)}` : "") +
        (failed ? `; ${plural(failed, "row")} not labelled` : "") +
        ".",
    );
  }

  #drawTools() {
    const job = this.#job;
    const probabilities = el("input", { type: "checkbox", checked: job.withProbabilities });
    probabilities.addEventListener("change", () => {
      job.withProbabilities = probabilities.checked;
    });
    const rest = job.texts.length - job.next;
    this.tools.replaceChildren(
      el(
        "div",
        { class: "line tools" },
        el(
          "button",
          {
            type: "button",
            id: "download",
            class: "primary",
            disabled: job.next === 0,
            onclick: () => this.#download(),
          },
          "Download the labelled CSV",
        ),
        job.stopped &&
          el(
            "button",
            { type: "button", id: "go-on", onclick: () => this.#resume() },
            `Label the other ${count(rest)}`,
          ),
        el("label", { class: "check" }, probabilities, "with every label's probability"),
        hasFormula(job.sheet) &&
          el(
            "p",
            { class: "note" },
            "Some cells begin with = + - or @: to a spreadsheet program they are formulas. ",
            "They stay as they came; import the file as text.",
          ),
      ),
    );
  }

  #resume() {
    this.#job.stopped = false;
    this.guarded((signal) => this.#goOn(signal));
  }

  #download() {
    const job = this.#job;
    try {
      const content = labelledCsv(job, this.#choices.threshold);
      const address = URL.createObjectURL(new Blob([content], { type: "text/csv;charset=utf-8" }));
      const name = `${job.sheet.name.replace(/\.(csv|tsv|txt)$/i, "")}-labelled.csv`;
      el("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
    } catch (failure) {
      this.report(failure);
    }
  }
}

// `filled` are the rows with a text in them: only those are sent, as `texts`, of which `next` is the first to go.
function newJob(documents, sheet, choices) {
  const filled = [...documents.keys()].filter((place) => documents[place].trim());
  return {
    documents,
    sheet: sheet ?? {
      name: "texts",
      header: ["text"],
      rows: documents.map((text) => [text]),
      delimiter: ",",
      bom: false,
    },
    outcomes: documents.map((text) => (text.trim() ? null : emptyOutcome())),
    filled,
    texts: filled.map((place) => documents[place]),
    next: 0,
    seconds: 0,
    stopped: false,
    withProbabilities: false,
    tasks: choices.tasks,
    request: choices.request,
  };
}
