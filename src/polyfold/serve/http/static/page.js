// The page: texts or a CSV in, labels out.

import { Client, Failure } from "./api.js";
import { drawCard } from "./card.js";
import { Choices } from "./choices.js";
import { CsvError } from "./csv.js";
import { byId } from "./dom.js";
import { drawCards, drawTiming } from "./draw.js";
import { DriftPanel } from "./drift.js";
import { acceptDrops } from "./drops.js";
import { milliseconds, plural } from "./format.js";
import { Live } from "./live.js";
import { Many } from "./many.js";
import { Notice } from "./notice.js";
import { toOutcome } from "./outcomes.js";
import { readSheet, SheetPanel } from "./sheet.js";
import { curl, EXAMPLES, linesOf } from "./typed.js";

const MOST_CARDS = 20; // more texts than this are a table
const NOTHING = "The labels of your texts will stand here.";

const texts = byId("texts");
const client = new Client();
const notice = new Notice(byId("notice"));
const state = {
  panel: null, // the SheetPanel of the file that is open
  running: null, // the AbortController of what is under way
  redraw: () => {}, // draws what is shown, after a threshold has moved
};
const choices = new Choices(byId("choices"), { changed: choicesChanged, readCard });
const many = new Many(client, JSON.parse(document.body.dataset.limits), choices, {
  views: {
    outcomes: byId("outcomes"),
    progress: byId("progress"),
    bar: byId("progress-bar"),
    left: byId("progress-text"),
  },
  say,
  guarded,
  report,
});
const drift = new DriftPanel(byId("drift-card"), byId("drift"));
const live = new Live(
  client,
  { live: byId("live"), health: byId("health"), healthText: byId("health-text") },
  { drift: (found) => drift.show(choices.model, found), served: loadModels, refused: () => askForKey(false) },
);

function choicesChanged() {
  state.redraw();
  drift.show(choices.model);
}

function say(text) {
  byId("summary").textContent = text;
}

// --- models, keys, failures ---

// Whether the models are known now.
async function loadModels() {
  try {
    choices.setModels(await client.models());
    return true;
  } catch (failure) {
    report(failure);
    return false;
  }
}

function readCard(model) {
  byId("card-title").textContent = `${model.name}, version ${model.version}`;
  byId("card-text").replaceChildren(...drawCard(model.card));
  byId("card").showModal();
}

function report(failure) {
  if (failure.name === "AbortError") return;
  if (!(failure instanceof Failure || failure instanceof CsvError)) throw failure;
  if (failure.status === 401) askForKey(true);
  notice.show(failure);
}

function askForKey(focus) {
  byId("key-form").hidden = false;
  byId("key-change").hidden = true;
  if (focus) byId("key").focus();
}

async function useKey(event) {
  event.preventDefault();
  notice.clear();
  client.useKey(byId("key").value.trim());
  if (!(await loadModels())) return;
  byId("key").value = "";
  byId("key-form").hidden = true;
  byId("key-change").hidden = false;
  say("The key is accepted.");
  texts.focus();
  live.run();
}

// --- predicting ---

async function predict() {
  if (state.running) return;
  notice.clear();
  const documents = state.panel ? state.panel.texts : linesOf(texts.value, byId("by-line").checked);
  if (!documents.some((text) => text.trim())) {
    const hint = state.panel ? "This column is empty: choose another." : "Type or paste one, or drop a CSV.";
    notice.show({ message: "There is no text yet.", hint });
    (state.panel ? byId("column") : texts).focus();
    return;
  }
  if (!choices.model && !(await loadModels())) return;
  if (!choices.model) {
    notice.show({ message: "The server has no model loaded.", hint: "Load one, then try again." });
    return;
  }
  if (state.panel === null && documents.length <= MOST_CARDS) {
    await guarded((signal) => predictFew(documents, signal));
    return;
  }
  byId("timing").replaceChildren();
  state.redraw = many.redraw;
  const sheet = state.panel?.sheet ?? null;
  await guarded((signal) => many.start(documents, sheet, signal));
}

async function predictFew(documents, signal) {
  const found = await client.predict({ ...choices.request, texts: documents }, signal);
  const tasks = choices.tasksOf(found.answer.version);
  const outcomes = found.answer.predictions.map((one) => toOutcome(one, tasks));
  const shown = { tasks, threshold: choices.threshold };
  const opened = new Set();
  const command = curl(() => choices.fullRequest, documents);
  state.redraw = () => {
    byId("outcomes").replaceChildren(...drawCards(documents, outcomes, shown, opened), command.draw());
  };
  state.redraw();
  byId("timing").replaceChildren(drawTiming(found));
  const failed = outcomes.filter((one) => one.error).length;
  const { model, version } = found.answer;
  say(
    `${plural(documents.length - failed, "text")} labelled by ${model}, version ${version}, ` +
      `in ${milliseconds(found.roundTripMs)}${failed ? `; ${failed} not labelled` : ""}.`,
  );
}

// One thing at a time, with a signal to stop it.
async function guarded(work) {
  notice.clear();
  state.running = new AbortController();
  byId("predict").disabled = true;
  byId("results").setAttribute("aria-busy", "true");
  try {
    await work(state.running.signal);
  } catch (failure) {
    report(failure);
  } finally {
    state.running = null;
    byId("predict").disabled = false;
    byId("results").removeAttribute("aria-busy");
  }
}

// --- files ---

async function openSheet(file) {
  if (state.running) return;
  notice.clear();
  try {
    state.panel = new SheetPanel(byId("sheet"), await readSheet(file), { changed: showInput, closed: closeSheet });
  } catch (failure) {
    report(failure);
    return;
  } finally {
    byId("file").value = ""; // so that the same file, mended, can be opened again
  }
  showInput();
  byId("predict").focus();
}

function closeSheet() {
  state.panel = null;
  byId("sheet").replaceChildren();
  showInput();
  texts.focus();
}

function showInput() {
  const { panel } = state;
  byId("typing").hidden = panel !== null;
  byId("sheet").hidden = panel === null;
  byId("examples").hidden = panel !== null;
  byId("predict-text").textContent = panel ? `Label ${plural(panel.texts.length, "row")}` : "Predict";
}

function clear() {
  state.running?.abort();
  notice.clear();
  texts.value = "";
  state.redraw = () => {};
  byId("outcomes").replaceChildren();
  byId("timing").replaceChildren();
  say(NOTHING);
  closeSheet();
}

// --- wiring ---

function onKey(event) {
  const asks = event.key === "Enter" && (event.ctrlKey || event.metaKey);
  if (asks && !byId("card").open && !event.target.closest("#key-form")) {
    event.preventDefault();
    predict();
  }
  if (event.key === "Escape") state.running?.abort();
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
document.addEventListener("keydown", onKey);
byId("stop").addEventListener("click", () => state.running?.abort());
byId("open").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => event.target.files[0] && openSheet(event.target.files[0]));
byId("examples").addEventListener("click", () => {
  texts.value = EXAMPLES.join("\n");
  byId("by-line").checked = true;
  texts.focus();
});
byId("clear").addEventListener("click", clear);
byId("key-form").addEventListener("submit", useKey);
byId("key-change").addEventListener("click", () => askForKey(true));
if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("predict-key").textContent = "⌘ ↵";
acceptDrops(byId("drop"), openSheet);
say(NOTHING);
live.run();
