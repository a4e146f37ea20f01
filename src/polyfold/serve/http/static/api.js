// The service, as the page asks it. Whatever goes wrong is a Failure: what happened, and what to do.

export class Failure extends Error {
  // `code` is the service's own, or "no_answer"; `retryAfterS` is null where the server named no time.
  constructor(code, message, hint, { status = 0, retryAfterS = null, requestId = null } = {}) {
    super(message);
    this.code = code;
    this.hint = hint;
    this.status = status;
    this.retryAfterS = retryAfterS;
    this.requestId = requestId;
  }
}

// What to do, where the answer itself does not say.
const HINTS = {
  403: "This key may not do that: use another one.",
  404: "This may be another service, or another version of it: reload the page.",
  413: "Send fewer or shorter texts at a time, or drop them as a CSV: it is sent in parts.",
  429: "Wait a little, then send again.",
  500: "Send it again; if it fails again, the request id below finds it in the server's log.",
  503: "The server is starting, stopping or full: wait a little, then send again.",
  504: "The answer took too long: send fewer texts at a time.",
};
// The service's own hint speaks of headers, which the page sets itself.
const IN_PAGE = { 401: "Enter an API key of this service above." };
const LONGEST_S = { predict: 90, look: 10 };

export class Client {
  #key = "";

  get hasKey() {
    return this.#key !== "";
  }

  useKey(key) {
    this.#key = key;
  }

  models = () => this.#ask("models");
  stats = () => this.#ask("stats");

  // `/health` answers 503 while the service is not ready, and says why in the same form.
  async health() {
    const response = await this.#send("health", { signal: AbortSignal.timeout(LONGEST_S.look * 1000) });
    return (await json(response)) ?? { status: response.ok ? "ready" : "failed" };
  }

  // {answer, roundTripMs, parts: [{name, ms}]}; `signal` gives up.
  async predict(request, signal) {
    const started = performance.now();
    const response = await this.#send("predict", {
      method: "POST",
      body: JSON.stringify(request),
      headers: { "content-type": "application/json" },
      signal: AbortSignal.any([signal, AbortSignal.timeout(LONGEST_S.predict * 1000)]),
    });
    const answer = await answered(response);
    const roundTripMs = performance.now() - started;
    return { answer, roundTripMs, parts: serverTiming(response.headers.get("server-timing")) };
  }

  async #ask(path) {
    return answered(await this.#send(path, { signal: AbortSignal.timeout(LONGEST_S.look * 1000) }));
  }

  async #send(path, options) {
    const headers = { ...options.headers };
    if (this.#key) headers.authorization = `Bearer ${this.#key}`;
    try {
      return await fetch(path, { ...options, headers, cache: "no-store", credentials: "same-origin" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw noAnswer();
    }
  }
}

function noAnswer() {
  return new Failure(
    "no_answer",
    "The server does not answer.",
    "See whether polyfold serve still runs and the network is up, then send again: your texts are still here.",
  );
}

async function answered(response) {
  const body = await json(response);
  if (response.ok && body !== null) return body;
  const error = body?.error ?? {};
  const known = Number.parseFloat(response.headers.get("retry-after"));
  throw new Failure(
    error.code ?? "unknown",
    sentence(error.message) ?? `The server answered ${response.status} ${response.statusText}`.trim() + ".",
    IN_PAGE[response.status] ?? sentence(error.hint) ?? HINTS[response.status] ?? HINTS[500],
    {
      status: response.status,
      retryAfterS: Number.isFinite(known) ? known : null,
      requestId: error.request_id ?? response.headers.get("x-request-id"),
    },
  );
}

// The service's messages begin small, as parts of sentences do.
const sentence = (words) => (words ? words[0].toUpperCase() + words.slice(1) : null);

async function json(response) {
  try {
    return JSON.parse(await response.text());
  } catch (error) {
    if (error instanceof SyntaxError) return null; // a proxy's page, perhaps
    if (error.name === "AbortError") throw error;
    throw noAnswer(); // the connection broke in the middle
  }
}

// "queue;dur=0.1, infer;dur=8" -> [{name: "queue", ms: 0.1}, {name: "infer", ms: 8}]
export function serverTiming(header) {
  return (header ?? "")
    .split(",")
    .map((part) => ({ name: part.split(";")[0].trim(), ms: Number.parseFloat(part.split("dur=")[1]) }))
    .filter((part) => part.name && Number.isFinite(part.ms));
}
