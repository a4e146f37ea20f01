"""One cold start, or one process that serves, measured from inside; benchmarks/cold_start.py starts it.

    python benchmarks/cold_start_child.py '{"what": "start", "model": "MODEL", "spawned": 0.0, "text": "Hello"}'

`spawned` is the parent's `time.perf_counter()` when it started this process: one clock serves all processes.
Nothing is imported before the clock is read but modules of Python itself.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter, process_time
from typing import Any

FIRST_LINE = perf_counter()

LIBRARIES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "torch": "torch",
    "tokenizers": "tokenizers",
    "sentencepiece": "sentencepiece",
}


def start(job: dict[str, Any]) -> dict[str, Any]:
    """What anyone would write: import, open, predict. Seconds since the parent asked for the process."""
    times = {"python": FIRST_LINE - job["spawned"]}
    last = FIRST_LINE

    def mark(name: str) -> None:
        nonlocal last
        now = perf_counter()
        times[name] = now - last
        last = now

    from polyfold.predictor import Predictor

    mark("import polyfold.predictor")
    predictor = Predictor.open(job["model"], **_options(job))
    mark("Predictor.open")
    first = predictor.predict([job["text"]])[0]
    mark("first prediction")
    total, processor = last - job["spawned"], process_time()
    predictor.predict([job["text"]])
    mark("the same text again")
    return {"total_s": total, "processor_s": processor, "steps_s": times, "labels": first.labels}


def steps(job: dict[str, Any]) -> dict[str, Any]:
    """The same in smaller steps: each library imported alone, the runtime's own calls timed inside `open`."""
    import importlib
    from pathlib import Path

    times: dict[str, float] = {}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        started = perf_counter()
        found = run()
        times[name] = times.get(name, 0.0) + perf_counter() - started
        return found

    for library in ("numpy", "pydantic", "polyfold.predictor"):
        timed(f"import {library}", partial(importlib.import_module, library))
    from polyfold.artifact import read_config
    from polyfold.predictor import Predictor
    from polyfold.system import telemetry_off
    from polyfold.text import open_tokenizer

    telemetry_off()
    folder = Path(job["model"])
    config, _ = timed("read config", partial(read_config, folder))
    for library in (job.get("runtime") or config.runtime, config.tokenizer.kind):
        if library in LIBRARIES:
            timed(f"import {library}", partial(importlib.import_module, LIBRARIES[library]))
    if "openvino" in sys.modules:
        _watch_openvino(timed)
    # Opened twice: here to be timed alone, and inside `open`, from which its time is then taken off.
    timed("open tokenizer", partial(open_tokenizer, folder, config.tokenizer))
    predictor = timed("open, the rest", partial(Predictor.open, folder, **_options(job)))
    runtime_s = sum(times.get(name, 0.0) for name in RUNTIME)
    times["open, the rest"] -= times["open tokenizer"] + runtime_s
    timed("first prediction", partial(predictor.predict, [job["text"]]))
    # What the runtime reads or compiles for the first text stands in its own lines.
    times["first prediction"] -= sum(times.get(name, 0.0) for name in RUNTIME) - runtime_s
    return {"steps_s": times}


RUNTIME = ("read model", "compile model")


def _watch_openvino(timed: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Time OpenVINO's two calls wherever they are made from on this thread."""
    import threading

    import openvino

    own = threading.get_ident()
    for name, label in (("read_model", RUNTIME[0]), ("compile_model", RUNTIME[1])):
        call = getattr(openvino.Core, name)

        def watched(*given: Any, call: Callable[..., Any] = call, label: str = label, **named: Any) -> Any:
            if threading.get_ident() != own:
                return call(*given, **named)
            return timed(label, partial(call, *given, **named))

        setattr(openvino.Core, name, watched)


def serve(job: dict[str, Any]) -> dict[str, Any]:
    """Texts one by one, as a service gets them, and then in batches of 32: memory at each stage."""
    from pathlib import Path

    texts = json.loads(Path(job["texts"]).read_bytes())
    from polyfold.predictor import Predictor

    predictor = Predictor.open(job["model"], **_options(job))
    import fresh

    found = {"opened": fresh.resident()}
    predictor.predict(texts[:1])
    found["first prediction"] = fresh.resident()
    for text in texts:
        predictor.predict([text])
    found[f"{len(texts)} texts one by one"] = fresh.resident()
    largest = fresh.largest_maps()
    for start_at in range(0, len(texts), 32):
        predictor.predict(texts[start_at : start_at + 32])
    found["and in batches of 32"] = fresh.resident()
    from polyfold.system import peak_memory_mb

    return {"stages": found, "largest": largest, "peak_memory_mb": peak_memory_mb()}


def _options(job: dict[str, Any]) -> dict[str, Any]:
    """Keywords of `Predictor.open`, those that were given."""
    from pathlib import Path

    options = {name: job[name] for name in ("runtime", "threads", "bf16") if job.get(name)}
    if job.get("cache_dir"):
        options["cache_dir"] = Path(job["cache_dir"])
    return options


JOBS = {"start": start, "steps": steps, "serve": serve}

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(JOBS[given["what"]](given)))
