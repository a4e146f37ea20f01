// Many texts, sent in parts: with progress, patience where the server asks for it, and a way to stop.

import { Failure } from "./api.js";

// A part should take about this long: long enough that HTTP costs little, short enough to see it move.
const PART_MS = { least: 250, most: 1000 };
const FIRST_PART = 16;
const PATIENCE = { times: 8, longestS: 60, unknownS: 2 };
const BODY_SHARE = 0.9; // of the greatest body, the rest being for what surrounds the texts

const encoder = new TextEncoder();

// Sends `job.texts` from `job.next` on; `tell(answer, start)` gets each part's, in order, `waiting(seconds)`
// a pause the server asked for. What is done stays done: after a Failure or a stop, call it again to go on.
export async function sendAll(client, job, limits, signal, { tell, waiting }) {
  let part = Math.min(FIRST_PART, limits.max_texts);
  let patience = PATIENCE.times;
  while (job.next < job.texts.length) {
    const end = partEnd(job.texts, job.next, part, limits);
    try {
      const found = await client.predict({ ...job.request, texts: job.texts.slice(job.next, end) }, signal);
      tell(found.answer, job.next);
      job.next = end;
      patience = PATIENCE.times;
      if (found.roundTripMs < PART_MS.least) part = Math.min(part * 2, limits.max_texts);
      if (found.roundTripMs > PART_MS.most) part = Math.max(part >> 1, 1);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const tooMuch =
        error.status === 413 || error.code === "too_many_texts" || error.code === "deadline_exceeded";
      if (tooMuch && end - job.next > 1) {
        part = Math.max((end - job.next) >> 1, 1);
        continue;
      }
      const seconds = error.retryAfterS ?? PATIENCE.unknownS;
      const busy = error.status === 429 || error.status === 503;
      if (!busy || patience === 0 || seconds > PATIENCE.longestS) throw error;
      patience -= 1;
      await waiting(seconds);
      await pause(seconds, signal);
    }
  }
}

// As many texts as fit: at most `most`, and no more bytes than the service takes.
export function partEnd(texts, start, most, limits) {
  let end = start;
  let bytes = 0;
  while (end < texts.length && end - start < most) {
    bytes += encoder.encode(JSON.stringify(texts[end])).length + 1;
    if (end > start && bytes > limits.max_body_bytes * BODY_SHARE) break;
    end += 1;
  }
  return end;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal.addEventListener("abort", stop, { once: true });
  });
}
