"""A real `polyfold serve` on a free port of this machine, stopped for sure.

with running([folder], "--max-texts", "8") as server:
    httpx.post(f"{server.url}/predict", json={"text": "w1"})
"""

import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("polyfold")
START_SECONDS = 60.0
STOP_SECONDS = 20.0
_URL = re.compile(r"(http://\S+)")


@dataclass
class ServerProcess:
    """The process, and what it has said on standard error so far."""

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False

    @property
    def url(self):
        """Where it listens: `http://127.0.0.1:PORT`."""
        return _URL.search(self.wait_for("listening at"))[1]

    @property
    def port(self):
        """The port of `url`."""
        return int(self.url.rpartition(":")[2])

    def stderr(self):
        """Everything it has written to standard error so far."""
        with self.changed:
            return "".join(self.lines)

    def wait_for(self, words, seconds=START_SECONDS):
        """The first line that holds `words`; fails when the process ends, or the time, before it came."""

        def found():
            return next((line for line in self.lines if words in line), None)

        with self.changed:
            self.changed.wait_for(lambda: self.ended or found(), seconds)
            line = found()
            assert line is not None, f"it did not say '{words}':\n{''.join(self.lines)}"
            return line

    def wait(self, seconds=STOP_SECONDS):
        """Its exit code, once it has ended by itself; where it does not, a failure that says what it was at."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(STOP_SECONDS)
            raise AssertionError(f"it did not end:\n{self.stderr()}") from None

    def read(self):
        """Collect standard error until it is closed; runs in a thread of its own."""
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()


@contextmanager
def running(models, *options, ready=True, environment=None):
    """`polyfold serve MODELS OPTIONS` on a port that the system chose; `ready` waits until it takes requests."""
    command = [str(PROGRAM), "serve", *map(str, models), "--port", "0", *map(str, options)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **(environment or {})},
    )
    server = ServerProcess(process)
    reader = threading.Thread(target=server.read, daemon=True)
    reader.start()
    try:
        if ready:
            server.wait_for("ready:")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        process.stderr.close()
