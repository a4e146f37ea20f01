"""Speed, always beside a baseline in the same run: rounds of all subjects take turns, so noise hits all alike.

The report's four keys: dense "BxW" shapes (every position a real token of distinct texts, ids already made),
"real_text" (both sides get the same distinct texts in length-sorted token-budget batches) and
"real_text_vs_padded_128" (the baseline pads and cuts to 128 tokens, at its own best batch size, as the paper's
protocol does: four to five times of that figure is padding). Subjects are measured on real text through the whole
predictor, tokenizing included; the baseline gets token ids for nothing, which favours it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from polyfold.console import progress_bar
from polyfold.measure.rounds import Timing, Turns, Work, take_turns
from polyfold.measure.workloads import (
    DENSE_CALLS,
    Encoder,
    IdsSubject,
    Subject,
    batches_work,
    best_batch_size,
    dense_work,
    distinct_texts,
    padded_single_runs,
    padded_work,
    single_runs,
    text_work,
)
from polyfold.predictor import TOKEN_BUDGET
from polyfold.text import Encoding

REAL_TEXT = "real_text"
PADDED = "real_text_vs_padded_128"

_Key = tuple[Literal["subject", "baseline"], str]


class SpeedSpec(BaseModel):
    """What is measured and for how long.

    Each subject gets `rounds` turns a key, each of at least `round_seconds` and one whole pass. The baseline is
    many times slower, so it gets `baseline_rounds` turns and starts no other one after `baseline_seconds` at a
    key; against the padded baseline it runs `padded_documents` (the cost of a padded document does not depend on
    its text). `documents` distinct texts are drawn evenly over those given; `single_texts` of them are timed one
    at a time for the latency on real text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shapes: tuple[tuple[int, int], ...] = ((1, 128), (32, 128))
    real_text: bool = True
    rounds: int = Field(default=5, ge=1)
    round_seconds: float = Field(default=1.0, ge=0.0)
    baseline_rounds: int = Field(default=2, ge=1)
    baseline_seconds: float = Field(default=60.0, ge=0.0)
    documents: int = Field(default=512, ge=1)
    padded_documents: int = Field(default=64, ge=1)
    single_texts: int = Field(default=100, ge=1)
    token_budget: int = Field(default=TOKEN_BUDGET, ge=1)
    batch_sizes: tuple[int, ...] = Field(default=(8, 32, 64), min_length=1)

    @property
    def turns(self) -> Turns:
        """A subject's."""
        return Turns(self.rounds, self.round_seconds)

    @property
    def baseline_turns(self) -> Turns:
        """The baseline's."""
        return Turns(self.baseline_rounds, self.round_seconds, self.baseline_seconds)


@dataclass(frozen=True)
class SpeedReport:
    """Figures by subject and key, the baseline's own (none without one), and the ratios of their throughputs.

    `baseline_batch_size` is the best of those tried for the padded baseline; None where that was not measured.
    """

    subjects: dict[str, dict[str, Timing]]
    baseline: dict[str, Timing]
    baseline_batch_size: int | None

    @property
    def speedup(self) -> dict[str, dict[str, float]]:
        """By subject and key: documents a second over the baseline's in this run."""
        return {
            name: {
                key: speed.documents_per_second / self.baseline[key].documents_per_second
                for key, speed in speeds.items()
                if key in self.baseline
            }
            for name, speeds in self.subjects.items()
        }


def measure_speed(
    subjects: Mapping[str, Subject],
    baseline: IdsSubject | None,
    texts: Sequence[str],
    spec: SpeedSpec,
    baseline_encoder: Encoder | None = None,
) -> SpeedReport:
    """Measure all subjects, and the baseline where there is one, under every key of the spec.

    Without an encoder of its own the baseline gets the first subject's token ids; the caller marks it so.
    """
    assert subjects
    encoder = baseline_encoder or next(iter(subjects.values()))
    chosen = distinct_texts(texts, spec.documents)
    encoding = encoder.encode(chosen)
    found: dict[str, dict[str, Timing]] = {name: {} for name in subjects}
    own: dict[str, Timing] = {}
    batch_size = None
    keys = len(spec.shapes) + (2 if spec.real_text else 0)
    with progress_bar("measure speed", keys) as bar:
        for shape in spec.shapes:
            key = f"{shape[0]}x{shape[1]}"
            works: dict[_Key, Work] = {}
            if baseline is not None:
                calls = min(DENSE_CALLS, spec.baseline_rounds)
                works["baseline", key] = dense_work(baseline, encoding, shape, spec.baseline_turns, calls)
            for name, one in subjects.items():
                works["subject", name] = dense_work(one, one.encode(chosen), shape, spec.turns)
            _collect(take_turns(works), found, own, (key,))
            bar.advance(1, key)
        if spec.real_text:
            works = {}
            if baseline is not None:
                batch_size = best_batch_size(baseline, encoding, encoder.pad_id, spec.batch_sizes)
                works |= _baseline_works(baseline, encoding, encoder.pad_id, spec, batch_size)
            for name, one in subjects.items():
                works["subject", name] = text_work(one, chosen, spec.single_texts, spec.turns)
            # A subject's side of both keys is one and the same measurement; without a baseline there is one key.
            _collect(take_turns(works), found, own, (REAL_TEXT, PADDED) if baseline is not None else (REAL_TEXT,))
            bar.advance(2, REAL_TEXT)
    return SpeedReport(found, own, batch_size)


def _baseline_works(
    baseline: IdsSubject, encoding: Encoding, pad_id: int, spec: SpeedSpec, batch_size: int
) -> dict[_Key, Work]:
    """The baseline's side of real text: in the subjects' batches, and padded as the paper has it."""
    turns, most = spec.baseline_turns, spec.single_texts
    singles = single_runs(baseline, encoding, pad_id, most)
    real = batches_work(baseline, encoding, pad_id, spec.token_budget, turns)
    padded = padded_work(baseline, encoding, pad_id, batch_size, spec.padded_documents, turns)
    padded_singles = padded_single_runs(baseline, encoding, pad_id, most)
    return {
        # A whole pass of it would be minutes of warm-up: one document is enough.
        ("baseline", REAL_TEXT): replace(real, warm_up=singles[:1], singles=singles),
        ("baseline", PADDED): replace(padded, singles=padded_singles),
    }


def _collect(
    timings: Mapping[_Key, Timing],
    found: dict[str, dict[str, Timing]],
    own: dict[str, Timing],
    keys: Sequence[str],
) -> None:
    for (side, name), timing in timings.items():
        if side == "baseline":
            own[name] = timing
        else:
            found[name] |= dict.fromkeys(keys, timing)
