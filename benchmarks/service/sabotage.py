"""`polyfold serve` with a fault in it, put there from outside: the service itself has no switch for any.

    python -m benchmarks.service.sabotage '{"fault": "raise", "file": "broken"}' serve FOLDER --port 8080

Before the command runs, the sessions of its runtimes are given one of these faults:

    raise     OpenVINO's sessions raise while the file is there
    refuse    OpenVINO opens nothing
    poison    every session raises where a batch holds a document of these token ids
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any, np.ndarray, np.ndarray], Any]


def sabotage(fault: Mapping[str, Any]) -> None:
    """Put the fault into this process."""
    from polyfold.runtimes import onnxruntime, openvino

    match fault["fault"]:
        case "raise":
            file = Path(fault["file"])
            openvino.OpenVinoSession.run = _raising(openvino.OpenVinoSession.run, file)  # type: ignore[method-assign]
        case "refuse":
            openvino.open_openvino = _refusing
        case "poison":
            ids = np.asarray(fault["ids"])
            for kind in (openvino.OpenVinoSession, onnxruntime.OnnxRuntimeSession):
                kind.run = _poisoned(kind.run, ids)  # type: ignore[method-assign]
        case other:
            raise SystemExit(f"there is no fault '{other}'")


def _raising(run: Run, file: Path) -> Run:
    def raises(session: Any, input_ids: np.ndarray, attention_mask: np.ndarray) -> Any:
        if file.exists():
            raise RuntimeError("sabotage: the runtime is broken")
        return run(session, input_ids, attention_mask)

    return raises


def _refusing(*arguments: Any) -> Any:
    raise RuntimeError("sabotage: the runtime does not open")


def _poisoned(run: Run, ids: np.ndarray) -> Run:
    def chokes(session: Any, input_ids: np.ndarray, attention_mask: np.ndarray) -> Any:
        width = len(ids)
        whole = attention_mask.sum(axis=1) == width
        if width <= input_ids.shape[1] and (input_ids[:, :width] == ids).all(axis=1)[whole].any():
            raise RuntimeError("sabotage: this text is poison")
        return run(session, input_ids, attention_mask)

    return chokes


def main(arguments: Sequence[str]) -> None:
    """Sabotage, then the command."""
    sabotage(json.loads(arguments[0]))
    sys.argv = ["polyfold", *arguments[1:]]
    from polyfold.cli import main as polyfold

    polyfold()


if __name__ == "__main__":
    main(sys.argv[1:])
