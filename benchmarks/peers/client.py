"""The driver's end of a peer's process: one order, one answer, or the reason why there is none."""

import json
import os
import queue
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polyfold.system import TELEMETRY_OFF

from .environments import PeerFailed

ANSWER_SECONDS = 1800.0
STOP_SECONDS = 20.0


class Client:
    """A started process; `ask` waits for its answer, `close` ends it."""

    def __init__(self, python: Path, script: Path, job: Path, log: Path) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        # Nothing is fetched while it is measured, and no driver's package is seen in the peer's environment.
        surroundings = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")},
            **TELEMETRY_OFF,
            "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        # Left to itself, `tokenizers` uses every core; TELEMETRY_OFF, made for processes that fork, forbids it.
        del surroundings["TOKENIZERS_PARALLELISM"]
        with log.open("a", encoding="utf8") as errors:
            self.process = subprocess.Popen(
                [str(python), str(script), str(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=surroundings,
                encoding="utf8",
            )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, do: str, timeout: float = ANSWER_SECONDS, **order: Any) -> Mapping[str, Any]:
        """Send an order and wait for its answer; PeerFailed where the peer says why not, dies, or stays silent."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **order}) + "\n")
            self.process.stdin.flush()
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.process.kill()
            raise PeerFailed(f"{do}: no answer in {timeout:g} s") from None
        except OSError:
            line = None
        if line is None:
            raise PeerFailed(f"{do}: the process ended with code {self.process.wait()}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise PeerFailed(f"{do}: {answer['reason']}")
        return answer

    def close(self) -> None:
        """Let the process end; end it where it does not."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": "stop"}) + "\n")
            self.process.stdin.close()
        except OSError:
            pass  # it is gone already
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text(encoding="utf8", errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "it said nothing")
