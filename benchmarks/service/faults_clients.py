"""Faults of clients: slow, silent, deaf, far too many, gone before the answer; and more work than can be done."""

from .results import FaultRow
from .stage import Stage, Story

PATIENCE, OWN_PATIENCE_S = ("--idle-timeout", "3", "--body-timeout", "3"), 1.5
"""Shorter than a service would have it, so that what it does about slow clients is seen within seconds."""

SLOW_SECONDS = 8.0
SMALL_QUEUE_TOKENS = 2_000
OVERFLOW_REQUESTS, OVERFLOW_TEXTS, OVERFLOW_CONNECTIONS = 120, 64, 40
MOST_GROWTH_MB = 400.0
"""Answers that nobody reads may fill the buffers of their connections, and no more."""


def slow_headers(stage: Stage) -> FaultRow:
    """Clients whose headers never end."""
    story = Story("slow_headers", "clients that send headers a byte at a time", "{count} connections, 2 bytes/s")
    return _slow(stage, story, "headers", 200)


def slow_bodies(stage: Stage) -> FaultRow:
    """Clients whose bodies never end."""
    story = Story("slow_bodies", "clients that send a body a byte at a time", "{count} connections, 2 bytes/s")
    return _slow(stage, story, "body", 200)


def half_open(stage: Stage) -> FaultRow:
    """Clients that fell silent in the middle of a request."""
    story = Story("half_open", "half-open connections", "{count} connections: half a request, then silence")
    return _slow(stage, story, "silent", 200)


def deaf(stage: Stage) -> FaultRow:
    """Clients that ask much and read nothing."""
    story = Story("deaf", "clients that never read", "{count} connections: 16 requests of 1,000 texts, no read")
    return _slow(stage, story, "deaf", 4)


def _slow(stage: Stage, story: Story, kind: str, count: int) -> FaultRow:
    """Such clients beside the load; in the end the service must have got rid of all of them."""
    story = Story(story.name, story.fault, story.injected.format(count=count))
    with stage.server(*PATIENCE) as server:
        before = server.resident_mb()
        loading = stage.load(server, stage.before_s + SLOW_SECONDS + stage.after_s, idle_s=OWN_PATIENCE_S)
        moment = stage.reached(loading.started, stage.before_s)
        with stage.crowd(kind, server, count, SLOW_SECONDS) as crowd:
            found = crowd.left()
        outcome = loading.wait()
        grown = server.resident_mb() - before
        code = server.stop()
    checks = {
        f"{found['still_open']} of them are still connected": found["still_open"] == 0,
        f"memory grew by {grown:.0f} MB": grown < MOST_GROWTH_MB,
        f"exit code {code}, not 0": code == 0,
    }
    facts = {**{name: float(value) for name, value in found.items()}, "grown_mb": grown}
    return stage.row(story, outcome, moment, facts=facts, checks=checks)


def resets(stage: Stage) -> FaultRow:
    """Clients that ask and reset the connection at once."""
    story = Story("resets", "connections reset by clients with a request under way", "20 at a time, SO_LINGER 0")
    return _leaving(stage, story, "resetting")


def cancelled(stage: Stage) -> FaultRow:
    """Clients that do not wait for their answer."""
    story = Story("cancelled", "clients that leave before their answer", "20 at a time, 32 texts each, 5 ms")
    return _leaving(stage, story, "cancelling")


def _leaving(stage: Stage, story: Story, kind: str) -> FaultRow:
    with stage.server() as server:
        files = server.open_files()
        loading = stage.load(server, stage.before_s + 2 * stage.after_s)
        moment = stage.reached(loading.started, stage.before_s)
        with stage.crowd(kind, server, 20, stage.after_s) as crowd:
            found = crowd.left()
        outcome = loading.wait()
        left = server.open_files() - files
        health = server.ask("GET", "/health").content["models"][0]
        code = server.stop()
    checks = {
        "connections were left behind": left <= 5,
        f"{health['queue_tokens']} tokens still wait": health["queue_tokens"] == 0,
        f"exit code {code}, not 0": code == 0,
    }
    return stage.row(story, outcome, moment, facts={"connections": float(found["opened"])}, checks=checks)


def many_connections(stage: Stage) -> FaultRow:
    """Thousands of open connections that do nothing."""
    count = stage.connections
    story = Story(
        "many_connections", f"{count:,} open connections", "from a second process; a request on each first"
    )
    with stage.server() as server:
        before = server.resident_mb()
        loading = stage.load(server, stage.before_s + stage.after_s + count / 1000)
        moment = stage.reached(loading.started, stage.before_s)
        with stage.crowd("idle", server, count, stage.after_s) as crowd:
            files, memory = server.open_files(), server.resident_mb()
            found = crowd.left()
        outcome = loading.wait()
        code = server.stop()
    checks = {
        f"only {found['opened']} were opened": found["opened"] == count,
        f"{found.get('closed', 0)} were closed": found.get("closed", 0) == 0,
        f"only {found.get('status_200', 0)} were answered": found.get("status_200", 0) == count,
        f"exit code {code}, not 0": code == 0,
    }
    facts = {"opened": float(found["opened"]), "answered": float(found.get("status_200", 0)),
             "open_files": float(files), "kb_a_connection": 1e3 * (memory - before) / count}  # fmt: skip
    return stage.row(story, outcome, moment, facts=facts, checks=checks)


def overflow(stage: Stage) -> FaultRow:
    """More texts at once than may wait; clients come again when they are told to."""
    story = Story(
        "overflow", "the queue overflows",
        f"{OVERFLOW_CONNECTIONS} clients, {OVERFLOW_TEXTS} texts each, `--queue-tokens {SMALL_QUEUE_TOKENS}`; "
        "they come again after Retry-After",
    )  # fmt: skip
    with stage.server("--queue-tokens", str(SMALL_QUEUE_TOKENS)) as server:
        loading = stage.load(
            server, 90.0, mode="closed", count=OVERFLOW_REQUESTS, texts_a_request=OVERFLOW_TEXTS,
            connections=OVERFLOW_CONNECTIONS, retries=80,
        )  # fmt: skip
        outcome = loading.wait()
        code = server.stop()
    refusals = int(outcome.refusals.sum())
    checks = {
        "nothing was refused": refusals > 0,
        "not all were answered in the end": bool(outcome.successes().all()),
        f"exit code {code}, not 0": code == 0,
    }
    facts = {"refused_with_retry_after": float(refusals), "most_tries": float(outcome.refusals.max() + 1)}
    row = stage.row(story, outcome, loading.started, facts=facts, checks=checks)
    return row.model_copy(update={"recovered_s": None, "p99_before_ms": None, "p99_fault_ms": None})
