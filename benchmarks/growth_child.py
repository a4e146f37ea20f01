"""One point of the growth curve, in a process of its own; benchmarks/growth.py starts it.

    python benchmarks/growth_child.py '{"what": "tokens", "model": "MODEL", "length": 32, "seconds": 1.0}'

Prints a JSON object; its last key is the largest resident memory that this process has had.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import fresh

SPECIAL = 4
"""Ids below are special tokens in every tokenizer we know."""

LEAST_RUNS = 3


def documents(job: Mapping[str, Any]) -> dict[str, Any]:
    """`polyfold` with the job's arguments: the command itself, in this process."""
    from polyfold.cli import main

    sys.argv = ["polyfold", *job["arguments"]]
    try:
        main()
    except SystemExit as leaving:
        if leaving.code:
            raise
    return {}


def tokens(job: Mapping[str, Any]) -> dict[str, Any]:
    """Dense documents of one length through the session: a batch under the token budget, and one alone."""
    predictor = _open(job)
    rows = max(1, int(job["budget"]) // int(job["length"]))
    rng = np.random.default_rng(0)
    ids = rng.integers(SPECIAL, predictor.tokenizer.vocabulary_size, (rows, int(job["length"])))
    batch = _times(lambda: predictor.session.run(ids, np.ones_like(ids)), float(job["seconds"]))
    one = ids[:1]
    # OpenVINO's model of this one length is compiled beside the first runs, which are slower.
    settle = single_seconds = float(job["seconds"]) / 2
    single = _times(lambda: predictor.session.run(one, np.ones_like(one)), single_seconds, settle)
    return {"rows": rows, "batch_s": float(np.median(batch)), "single_s": float(np.median(single))}


def tasks(job: Mapping[str, Any]) -> dict[str, Any]:
    """Texts through the whole predictor, for all tasks or those named; then every prediction as an object."""
    predictor = _open(job)
    texts = json.loads(Path(job["texts"]).read_bytes())
    names = job.get("names")
    predict = _times(lambda: predictor.predict(texts, names), float(job["seconds"]))
    objects = _times(lambda: list(predictor.predict(texts, names)), float(job["seconds"]))
    return {
        "documents": len(texts), "predict_s": float(np.median(predict)), "objects_s": float(np.median(objects))
    }  # fmt: skip


JOBS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "documents": documents,
    "tokens": tokens,
    "tasks": tasks,
}


def _open(job: Mapping[str, Any]) -> Any:
    from polyfold.predictor import Predictor

    return Predictor.open(job["model"], threads=job.get("threads"), bf16=bool(job.get("bf16")))


def _times(run: Callable[[], object], seconds: float, settle: float = 0.0) -> list[float]:
    """Seconds of each run after the first, which builds what later ones reuse, and after `settle` seconds more."""
    run()
    settled = perf_counter() + settle
    while perf_counter() < settled:
        run()
    times: list[float] = []
    while len(times) < LEAST_RUNS or sum(times) < seconds:
        started = perf_counter()
        run()
        times.append(perf_counter() - started)
    return times


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    found = JOBS[given["what"]](given)
    # Imported last: it stands above what a bare prediction needs.
    from polyfold.system import peak_memory_mb

    fresh.answer({**found, "peak_memory_mb": peak_memory_mb()})
