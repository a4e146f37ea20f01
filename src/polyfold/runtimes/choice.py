"""The fastest correct runtime on this machine: measured, not guessed.

Which one wins hangs on the processor, on how many of its cores are free, on the model and on the versions of the
libraries, so nothing here knows a winner beforehand. The first candidate is the reference: what it answers is
right, and one that answers otherwise is out, however fast.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter, sleep
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from polyfold.errors import InputError
from polyfold.runtimes.probes import Probe
from polyfold.runtimes.session import Session, SessionSpec
from polyfold.tasks import Task

LIMIT_S = 2.0
"""Time for the measured rounds of all candidates together; opening them comes on top."""

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
ENOUGH_AGREE = 0.995
THIN_MARGIN = 0.05
"""A decision this close (in probability) may fall either way: rounding in int8 moves it."""

FARTHEST = 0.1
"""A probability may be this far from the reference's; of int8 models, seen up to 0.04 in bf16."""

WIDEST_DRIFT = 0.5
"""Root mean square of the logits' differences over their spread among texts: seen up to 0.02 in trained models and
0.3 in random ones, whose logits hardly differ between texts; 1.4 is what unrelated answers have."""

TIE = 1.02
"""Within two per cent the earlier candidate is taken: that little is noise."""

SETTLE_S = 0.003
"""A pause before a candidate's turn: another's threads may still be spinning."""


Logits = Mapping[str, np.ndarray]
"""By task: float32 [batch, labels]."""


class Candidate(BaseModel):
    """A runtime with those settings that are not the caller's to decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: str
    bf16: bool = False
    spinning: bool = True
    threads: int | None = None
    streams: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"

    @property
    def title(self) -> str:
        """The runtime's name and what sets it apart."""
        apart: list[str] = [self.device] if self.device != "cpu" else []
        apart += ["bf16"] if self.bf16 else []
        apart += [] if self.spinning else ["threads that sleep"]
        apart += [] if self.threads is None else [f"{self.threads} threads"]
        apart += [] if self.streams is None else [f"streams: {self.streams}"]
        return f"{self.runtime} ({', '.join(apart)})" if apart else self.runtime

    def spec(self, asked: SessionSpec) -> SessionSpec:
        """The caller's options with this candidate's own in their place."""
        # Streams are OpenVINO's, and threads are nothing to a GPU.
        streams = self.streams or asked.streams if self.runtime == "openvino" else None
        threads = self.threads or asked.threads if self.device == "cpu" else None
        own = {"bf16": self.bf16, "spinning": self.spinning, "device": self.device}
        return asked.model_copy(update={**own, "threads": threads, "streams": streams})


class Trial(BaseModel):
    """How one candidate did: medians by probe in ms, or why it is out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: Candidate
    median_ms: dict[str, float] = {}
    refused: str | None = None


class Choice(BaseModel):
    """What was chosen, and of what; `measured_here` is false where an earlier start had measured it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chosen: Candidate
    trials: tuple[Trial, ...]
    measured_here: bool = True

    @property
    def note(self) -> str:
        """One line for people."""
        said = f"runtime: {self.chosen.title}"
        timed = [trial for trial in self.trials if trial.refused is None and trial.median_ms]
        own = next((trial for trial in timed if trial.candidate == self.chosen), None)
        if own is not None:
            figures = ", ".join(f"{name} {ms:.2f} ms" for name, ms in own.median_ms.items())
            said += f", fastest of {len(timed)} measured {'now' if self.measured_here else 'before'} ({figures})"
        for trial in self.trials:
            if trial.refused is not None:
                said += f"; {trial.candidate.title} is out: {trial.refused}"
        return said


def candidates(runtimes: Sequence[str], asked: SessionSpec, cores: int, physical: int) -> list[Candidate]:
    """What is worth trying of `runtimes`, the reference first.

    On `cuda` only the GPU's candidates can win, and ONNX Runtime on the processor is their reference where the
    model can be opened there. bf16 is tried where it was allowed; threads that sleep, and threads that share one
    stream, where there are several; one thread a core where the processor runs two, if the number was left open.
    """
    found = []
    several = (asked.threads or cores) > 1
    fewer = [None] if asked.threads is not None or physical >= cores else [None, physical]
    if "onnxruntime" in runtimes:
        found.append(Candidate(runtime="onnxruntime"))
        if asked.device == "cpu":
            found += [Candidate(runtime="onnxruntime", threads=number) for number in fewer[1:]]
            found += [Candidate(runtime="onnxruntime", spinning=False)] if several else []
        else:
            found.append(Candidate(runtime="onnxruntime", device="cuda"))
    if "openvino" in runtimes and asked.device == "cpu":
        for bf16 in (False, True) if asked.bf16 else (False,):
            found += [Candidate(runtime="openvino", bf16=bf16, threads=number) for number in fewer]
            found += [Candidate(runtime="openvino", bf16=bf16, streams=1)] if several and not asked.streams else []
    if "tensorrt" in runtimes and asked.device == "cuda":
        found.append(Candidate(runtime="tensorrt", bf16=asked.bf16, device="cuda"))
    if "torch" in runtimes:
        halves = (False, True) if asked.bf16 and asked.device == "cuda" else (False,)
        found += [Candidate(runtime="torch", bf16=bf16, device=asked.device) for bf16 in halves]
    return found


def objection(tasks: Sequence[Task], right: Logits, found: Logits) -> str | None:
    """Why the logits `found` are not the `right` ones; None where they are close enough.

    A pair (a document with a task, or with one label of a multi-label task) agrees where its decision is the same,
    or the reference's was a close call, and its probability is near the reference's.
    """
    agreeing = []
    for task in tasks:
        ours, theirs = right[task.name], found[task.name]
        if ours.shape != theirs.shape:
            return f"its logits for task '{task.name}' have shape {theirs.shape}, not {ours.shape}"
        if not np.isfinite(theirs).all():
            return f"its logits for task '{task.name}' are not numbers"
        spread = float(np.sqrt(np.mean((ours - ours.mean(axis=0)) ** 2)))
        drift = float(np.sqrt(np.mean((ours - theirs) ** 2)))
        # Texts that all get the same logits (one text, say) have no spread; then only probabilities are compared.
        if len(ours) > 1 and drift > WIDEST_DRIFT * spread + 1e-3:
            return f"its logits for task '{task.name}' drift by {drift / max(spread, 1e-9):.2f} of their spread"
        agreeing.append(_agreeing(task, task.probabilities(ours), task.probabilities(theirs)))
    share = float(np.concatenate(agreeing).mean())
    return None if share >= ENOUGH_AGREE else f"only {share:.2%} of its answers are the reference's"


def _agreeing(task: Task, ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Which pairs agree, of probabilities [batch, labels]: bool [pairs]."""
    same = task.decide(ours) == task.decide(theirs)
    if task.multi_label:
        limits = np.asarray(task.thresholds or (0.5,) * len(task.labels))
        margin, far = np.abs(ours - limits), np.abs(ours - theirs)
    else:
        best = np.sort(ours, axis=1)
        margin, far = best[:, -1] - best[:, -2], np.abs(ours - theirs).max(axis=1)
    return np.asarray((same | (margin < THIN_MARGIN)) & (far <= FARTHEST)).ravel()


def first_of(trials: Sequence[Trial]) -> Candidate:
    """Of those not refused, the one with the least geometric mean over the probes; the earlier one of a tie."""
    left = [trial for trial in trials if trial.refused is None]
    if not left:
        reasons = "; ".join(f"{trial.candidate.title}: {trial.refused}" for trial in trials)
        raise InputError(f"no runtime can be used here: {reasons}", hint="name another device or runtime")
    best = min(map(_score, left))
    return next(trial.candidate for trial in left if _score(trial) <= TIE * best)


def _score(trial: Trial) -> float:
    return math.exp(sum(math.log(ms) for ms in trial.median_ms.values()) / len(trial.median_ms))


def documents_within(one_text_s: float, most: int) -> int:
    """How many probe documents a model of this speed can be tried with: a quarter of the time limit a pass."""
    return max(6, min(most, int(0.25 * LIMIT_S / max(one_text_s, 1e-6))))


def check(
    sessions: Mapping[Candidate, Session], tasks: Sequence[Task], probes: Sequence[Probe]
) -> dict[Candidate, str | None]:
    """Each candidate's objection against the answers of the first; running them also warms them up."""
    right = None
    found: dict[Candidate, str | None] = {}
    for candidate, session in sessions.items():
        try:
            answers = _answers(session, tasks, probes)
        except (InputError, RuntimeError, ValueError) as error:
            if right is None:
                raise
            found[candidate] = f"it cannot run: {_first_line(error)}"
            continue
        right = answers if right is None else right
        found[candidate] = objection(tasks, right, answers) if answers is not right else None
    return found


def _answers(session: Session, tasks: Sequence[Task], probes: Sequence[Probe]) -> dict[str, np.ndarray]:
    parts = [session.run(probe.input_ids, probe.attention_mask) for probe in probes]
    return {task.name: np.concatenate([part[task.name] for part in parts]) for task in tasks}


def time_rounds(
    sessions: Mapping[Candidate, Session],
    probes: Sequence[Probe],
    clock: Callable[[], float] = perf_counter,
    pause: Callable[[float], None] = sleep,
) -> dict[Candidate, dict[str, float]]:
    """Medians in ms by candidate and probe, of interleaved rounds: what slows the machine slows all of them."""
    times: dict[Candidate, dict[str, list[float]]] = {
        candidate: {probe.name: [] for probe in probes} for candidate in sessions
    }
    started = clock()
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and clock() - started > LIMIT_S:
            break
        for candidate, session in sessions.items():
            pause(SETTLE_S)
            # Wakes its threads up again, and its weights are brought back from beyond the cache.
            session.run(probes[0].input_ids, probes[0].attention_mask)
            for probe in probes:
                before = clock()
                session.run(probe.input_ids, probe.attention_mask)
                times[candidate][probe.name].append((clock() - before) * 1e3)
    return {
        candidate: {name: round(median(values), 4) for name, values in by_probe.items()}
        for candidate, by_probe in times.items()
    }


def choose(
    sessions: Mapping[Candidate, Session],
    tasks: Sequence[Task],
    probes: Sequence[Probe],
    unopened: Mapping[Candidate, str],
    rivals: Sequence[Candidate],
) -> Choice:
    """Check and time the opened sessions, the reference first; only `rivals` may win."""
    objections = check(sessions, tasks, probes)
    racing = {one: session for one, session in sessions.items() if objections[one] is None and one in rivals}
    medians = time_rounds(racing, probes)
    trials = [Trial(candidate=one, refused=reason) for one, reason in unopened.items()]
    trials += [Trial(candidate=one, refused=reason) for one, reason in objections.items() if reason is not None]
    timed = [Trial(candidate=one, median_ms=found) for one, found in medians.items()]
    return Choice(chosen=first_of([*timed, *trials]), trials=(*timed, *trials))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
