"""Servers as processes: started, waited for, measured and stopped from outside."""

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from polyfold.errors import InputError
from polyfold.system import TELEMETRY_OFF

START_SECONDS, STOP_SECONDS, ASK_SECONDS = 180.0, 40.0, 10.0
POLL_SECONDS = 0.05
TOLD = 1200
"""Characters of a failed server's last words that are passed on."""


@dataclass(frozen=True)
class Reply:
    """What a server said to a question of the driver's own."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content(self) -> Any:
        """The JSON in it."""
        return json.loads(self.body)


class Server:
    """A running server and the processes that it started."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.name = name
        self.process = process
        self.port = port
        self.log = log
        self.started = monotonic()

    def ask(
        self, method: str, path: str, body: Any = None, key: str | None = None, seconds: float = ASK_SECONDS
    ) -> Reply:
        """One request over a connection of its own; OSError where the server is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        headers = {"content-type": "application/json", **({"x-api-key": key} if key else {})}
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return Reply(
                answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
            )
        except http.client.HTTPException as error:
            raise OSError(f"no HTTP: {error!r}") from None
        finally:
            connection.close()

    def wait_ready(self, seconds: float = START_SECONDS, path: str = "/health") -> float:
        """Until it says that it is ready; seconds since its start. InputError where it ends or takes longer."""
        until = monotonic() + seconds
        while monotonic() < until:
            if self.process.poll() is not None:
                raise InputError(f"'{self.name}' ended with {self.process.returncode}: {self.last_words()}")
            try:
                if self.ask("GET", path, seconds=2.0).status == 200:
                    return monotonic() - self.started
            except OSError:
                pass  # not listening yet
            sleep(POLL_SECONDS)
        self.kill()
        raise InputError(f"'{self.name}' was not ready after {seconds:g} s: {self.last_words()}")

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, and SIGKILL where that is not obeyed; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Until it has ended, killed if it has to be; the exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        return -signal.SIGKILL if code is None else code

    def kill(self) -> None:
        """End it and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def cpu_s(self) -> float:
        """Processor seconds so far, of all its processes."""
        return sum(one.user + one.system for one in self._each(lambda process: process.cpu_times()))

    def memory_mb(self) -> float:
        """Memory in MB (1e6 bytes) of all its processes; what they share is counted once (Pss)."""
        return sum(one.pss for one in self._each(lambda process: process.memory_full_info())) / 1e6

    def resident_mb(self) -> float:
        """Resident memory (RSS) in MB of the first process alone; cheap to ask for."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def open_files(self) -> int:
        """File descriptors of the first process: connections among them."""
        return int(psutil.Process(self.process.pid).num_fds())

    def last_words(self) -> str:
        """The end of what it logged."""
        words = self.log.read_text(encoding="utf8", errors="replace").strip() if self.log.is_file() else ""
        return words[-TOLD:] or "it said nothing"

    def _each(self, look: Any) -> list[Any]:
        found = []
        first = psutil.Process(self.process.pid)
        for process in (first, *first.children(recursive=True)):
            try:
                found.append(look(process))
            except psutil.NoSuchProcess:
                continue  # it ended between the list and the look
        return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def launch(
    name: str, command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None
) -> Server:
    """Start a server in a group of its own, all it says going to `log`, which begins anew."""
    log.parent.mkdir(parents=True, exist_ok=True)
    surroundings = {**os.environ, **TELEMETRY_OFF, "PYTHONUNBUFFERED": "1", **(environment or {})}
    # Left to itself, `tokenizers` uses every core; TELEMETRY_OFF, made for processes that fork, forbids it.
    surroundings.pop("TOKENIZERS_PARALLELISM", None)
    with log.open("wb") as file:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=surroundings,
            start_new_session=True,
        )
    return Server(name, process, port, log)
