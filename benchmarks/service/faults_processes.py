"""Faults of the process and what it stands on: signals, its log, the clock."""

import signal
from pathlib import Path
from time import monotonic, sleep

from polyfold.artifact import write_atomically
from polyfold.errors import InputError

from .processes import Server
from .results import FaultRow
from .stage import Stage, Story, sent_from, under_way

DAY = 86_400
LIBRARY = "**/faketime/libfaketimeMT.so.1"
JUMP_SECONDS = 5.0
"""For both jumps: the library that moves the clock looks for a new offset once a second, the server's answers for
the time of day as often."""


def sigterm(stage: Stage) -> FaultRow:
    """Told to stop while it is busy."""
    story = Story("sigterm", "SIGTERM under load", "the signal, while requests come")
    with stage.server() as server:
        loading = stage.load(server, stage.before_s + 2.0, patience_s=3.0)
        moment = stage.reached(loading.started, stage.before_s)
        server.process.send_signal(signal.SIGTERM)
        code = server.wait()
        exit_s = monotonic() - moment
        outcome = loading.wait()
    facts = {"exit_code": float(code), "exit_s": exit_s}
    return stage.row(
        story, outcome, moment, facts=facts, checks={f"exit code {code}, not 0": code == 0},
        excuse=sent_from(moment),
    ).model_copy(update={"recovered_s": None})  # fmt: skip


def sigkill(stage: Stage) -> FaultRow:
    """Killed while it is busy, and started again at the same port."""
    story = Story("sigkill", "SIGKILL under load, then started again", "the signal, while requests come")
    with stage.server() as server:
        loading = stage.load(server, stage.before_s + stage.after_s + 4.0, patience_s=5.0)
        moment = stage.reached(loading.started, stage.before_s)
        server.kill()
        again = stage.launch(port=server.port)
        try:
            ready_s = again.wait_ready()
            ready = monotonic()
            outcome = loading.wait()
        finally:
            code = again.stop()
    facts, checks = {"ready_again_s": ready_s}, {"the second one did not end well": code == 0}
    return stage.row(story, outcome, moment, facts=facts, checks=checks, excuse=under_way(moment, ready))


def log_full(stage: Stage) -> FaultRow:
    """Nothing can be written to the log."""
    story = Story("log_full", "the disk with the log is full", "`--log-file /dev/full`: every write fails")
    with stage.server("--log-file", "/dev/full") as server:
        loading = stage.load(server, stage.before_s + stage.after_s)
        outcome = loading.wait()
        healthy = server.ask("GET", "/health").status == 200
        code = server.stop()
    checks = {"not healthy": healthy, f"exit code {code}, not 0": code == 0}
    return stage.row(story, outcome, loading.started + stage.before_s, facts={}, checks=checks)


def clock_jumps(stage: Stage) -> FaultRow:
    """The time of day is a day later, then a day earlier."""
    story = Story("clock_jumps", "the clock jumps a day ahead, then two back", "libfaketime, under load")
    if stage.faketime is None:
        raise InputError(
            "libfaketime is not here", hint="install Debian's libfaketime, or unpack it in WORK (dpkg -x)"
        )
    file = stage.work / "clock"
    file.write_text("+0")
    environment = {
        "LD_PRELOAD": str(stage.faketime),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        # A clock that somebody sets moves the time of day; the monotonic clock goes on.
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Python waits for its lock by the monotonic clock. What the library calls a fix makes these waits go by
        # the time of day, and then any threaded Python stands still, also while the clock is true.
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }
    with stage.server(environment=environment) as server:
        true = _date(server)
        loading = stage.load(server, stage.before_s + JUMP_SECONDS + stage.after_s)
        moment = stage.reached(loading.started, stage.before_s)
        ahead = _jump(server, file, DAY, true)
        back = _jump(server, file, -DAY, true)
        outcome = loading.wait()
        code = server.stop()
    checks = {
        "the clock did not jump": ahead > DAY / 2 and back < -DAY / 2,
        f"exit code {code}, not 0": code == 0,
    }
    return stage.row(story, outcome, moment, facts={"ahead_s": ahead, "back_s": back}, checks=checks)


def _jump(server: Server, file: Path, offset_s: int, true: float) -> float:
    """Move the clock, wait until the server's answers show it, and say by how much they differ from `true`."""
    write_atomically(file, f"{offset_s:+d}".encode())
    until = monotonic() + 2 * JUMP_SECONDS
    while abs((seen := _date(server) - true) - offset_s) > DAY / 2 and monotonic() < until:
        sleep(0.2)
    return seen


def _date(server: Server) -> float:
    """The time of day as the server's answers say it, in seconds."""
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(server.ask("GET", "/health").headers["date"]).timestamp()


def find_faketime(given: Path | None, work: Path) -> Path | None:
    """The library that moves the clock: the one given, or unpacked in `work`, or where Debian has it."""
    if given is not None:
        return given.resolve()
    found = [file.resolve() for root in (work, Path("/usr/lib")) for file in sorted(root.glob(LIBRARY))]
    return found[0] if found else None
