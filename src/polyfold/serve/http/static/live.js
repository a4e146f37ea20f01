// What the service does now: asked every two seconds while someone can see it.

import { el, svg } from "./dom.js";
import { count, duration, figure, milliseconds } from "./format.js";

const EVERY_MS = 2000;
const HEALTH_EVERY = 5; // polls: the state changes rarely
const KEPT = 60; // points of the line, two minutes

export class Live {
  #client;
  #views;
  #timer = null;
  #polls = 0;
  #served = null;
  #speeds = [];

  // `views`: {live, health, healthText}; `drift(found)` shows that part; `served()` when other models are served
  // than before, and says whether it could see them; `refused()` when a key is missing or wrong.
  constructor(client, views, { drift, served, refused }) {
    this.#client = client;
    this.#views = views;
    this.drift = drift;
    this.served = served;
    this.refused = refused;
    document.addEventListener("visibilitychange", () => this.run());
  }

  // Start, or start again with what has changed (a key, the tab's visibility).
  run() {
    clearTimeout(this.#timer);
    this.#polls = 0;
    if (document.visibilityState === "visible") this.#poll();
  }

  async #poll() {
    const go = await this.#look();
    this.#polls += 1;
    clearTimeout(this.#timer);
    if (go && document.visibilityState === "visible") this.#timer = setTimeout(() => this.#poll(), EVERY_MS);
  }

  // Whether to go on: not where a key is missing, which `run` is called for.
  async #look() {
    try {
      if (this.#polls % HEALTH_EVERY === 0) await this.#showHealth(await this.#client.health());
      const stats = await this.#client.stats();
      this.#showStats(stats);
      this.drift(stats.drift);
      return true;
    } catch (failure) {
      if (failure.status === 401) {
        this.refused();
        return false;
      }
      if (failure.code === undefined) throw failure;
      this.#polls = -1; // ask for the health first, once something answers
      this.#state("down", failure.code === "no_answer" ? "no answer" : "not well");
      return true;
    }
  }

  async #showHealth(health) {
    const models = health.models ?? [];
    const moved = models
      .filter((one) => one.failovers > 0)
      .map((one) => `${one.name} ${one.version} now on ${one.runtime}`);
    if (!["ready", "degraded"].includes(health.status)) this.#polls = -1; // look again soon
    this.#state(health.status, [health.status, ...moved].join("; "));
    const served = JSON.stringify(models.map((one) => [one.name, one.version, one.runtime, one.state]));
    if (served !== this.#served && (await this.served())) this.#served = served;
  }

  #state(state, text) {
    this.#views.health.dataset.state = state;
    if (this.#views.healthText.textContent !== text) this.#views.healthText.textContent = text;
  }

  #showStats(stats) {
    this.#speeds = [...this.#speeds, stats.documents_per_second].slice(-KEPT);
    this.#views.live.replaceChildren(
      el(
        "p",
        { class: "big" },
        el("strong", { id: "throughput" }, figure(stats.documents_per_second)),
        " texts/s",
      ),
      sparkline(this.#speeds),
      el(
        "dl",
        { class: "facts" },
        [
          ["Requests/s", figure(stats.requests_per_second)],
          ["Latency p50", latency(stats.latency_ms_p50)],
          ["Latency p99", latency(stats.latency_ms_p99)],
          ["Tokens waiting", count(stats.queue_tokens)],
          ["Running for", duration(stats.uptime_s)],
        ].map(([what, value]) => [el("dt", {}, what), el("dd", {}, value)]),
      ),
    );
  }
}

// Null where nothing was asked of late.
const latency = (ms) => (typeof ms === "number" ? milliseconds(ms) : "–");

function sparkline(values) {
  const most = Math.max(...values, 1e-9);
  const points = values.map(
    (value, place) => `${KEPT - values.length + place},${(30 - (28 * value) / most).toFixed(2)}`,
  );
  return svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${KEPT - 1} 31`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("polyline", { points: points.join(" "), "vector-effect": "non-scaling-stroke" }),
  );
}
