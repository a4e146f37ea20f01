"""The predictor without any server, measured between the servers' turns: what their figures are compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np

from polyfold.predictor import Predictor

PAUSE_SECONDS = 0.3
"""Worker threads spin for up to 200 ms after their last batch; what is measured next must not pay for it."""


@dataclass(frozen=True)
class Throughput:
    """Texts a second, and seconds of processor a text."""

    texts_per_second: float
    cpu_s_a_text: float


def throughput(predictor: Predictor, texts: Sequence[str], seconds: float) -> Throughput:
    """All texts in one call, tokenizing included, again and again for at least `seconds`."""
    predictor.predict(texts[: max(1, len(texts) // 8)])
    calls, started, cpu = 0, perf_counter(), process_time()
    while not calls or perf_counter() - started < seconds:
        predictor.predict(texts)
        calls += 1
    done = calls * len(texts)
    return Throughput(done / (perf_counter() - started), (process_time() - cpu) / done)


def shape_difference(predictor: Predictor, texts: Sequence[str]) -> float:
    """The largest difference of a probability between a text alone and the same in a batch, offline."""
    together = predictor.predict(texts)
    largest = 0.0
    for row, text in enumerate(texts):
        alone = predictor.predict([text])
        for name, values in alone.probabilities.items():
            largest = max(largest, float(np.abs(values[0] - together.probabilities[name][row]).max()))
    return largest


def single_latencies_ms(predict: Callable[[Sequence[str]], object], texts: Sequence[str]) -> np.ndarray:
    """Milliseconds of each text alone, back to back, after a tenth of them to warm up."""
    for text in texts[: max(1, len(texts) // 10)]:
        predict([text])
    found = np.empty(len(texts))
    for place, text in enumerate(texts):
        started = perf_counter()
        predict([text])
        found[place] = perf_counter() - started
    return 1e3 * found
