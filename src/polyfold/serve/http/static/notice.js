// One message at a time above the results: what went wrong, and what to do.

import { el } from "./dom.js";
import { plural } from "./format.js";

export class Notice {
  #root;
  #timer = null;

  constructor(root) {
    this.#root = root;
  }

  clear() {
    clearInterval(this.#timer);
    this.#root.replaceChildren();
  }

  // `failure` has message and hint; and, of a Failure, the seconds to wait and the request's id.
  show(failure) {
    this.clear();
    const wait = failure.retryAfterS ? Math.ceil(failure.retryAfterS) : 0;
    const id = failure.requestId;
    this.#root.append(
      el(
        "div",
        { class: "notice error", "data-code": failure.code ?? "input" },
        el("p", {}, el("strong", {}, failure.message)),
        failure.hint && el("p", {}, failure.hint),
        wait > 0 && this.#countdown(wait),
        id && el("p", { class: "note" }, "Request ", el("code", {}, id)),
      ),
    );
  }

  // Said once to a screen reader; only the eye sees every second go by.
  #countdown(seconds) {
    const until = performance.now() + seconds * 1000;
    const left = el("span", { class: "countdown", "aria-hidden": "true" });
    const tick = () => {
      const rest = Math.ceil((until - performance.now()) / 1000);
      left.textContent = rest > 0 ? `Send again in ${rest} s.` : "You can send again now.";
      if (rest <= 0) clearInterval(this.#timer);
    };
    this.#timer = setInterval(tick, 250);
    tick();
    return el("p", {}, left, el("span", { class: "hidden" }, `Send again in ${plural(seconds, "second")}.`));
  }
}
