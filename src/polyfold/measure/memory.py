"""Peak memory of a predictor, in a process of its own: nothing that the caller has loaded is counted."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from polyfold.errors import InputError
from polyfold.system import peak_memory_mb


def predicting_memory_mb(
    folder: Path, texts: Sequence[str], *, threads: int | None = None, bf16: bool = False
) -> float:
    """The largest resident size, in MB (1e6 bytes), of a fresh process that opens `folder` and predicts `texts`.

    The interpreter, the libraries and the tokenizer are in it: it is what a container has to hold.
    """
    order = {"folder": str(folder), "texts": list(texts), "threads": threads, "bf16": bf16}
    command = [sys.executable, "-m", "polyfold.measure.memory"]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"]
        raise InputError(f"its memory could not be measured: {lines[-1]}", file=folder)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _main() -> None:
    from polyfold.predictor import Predictor

    order = json.load(sys.stdin)
    predictor = Predictor.open(order["folder"], threads=order["threads"], bf16=order["bf16"])
    predictor.predict(order["texts"])
    sys.stdout.write(json.dumps(peak_memory_mb()) + "\n")


if __name__ == "__main__":
    _main()
