"""The four speed keys of an artifact beside their floors, and where the time of the whole predictor goes."""

from collections.abc import Sequence

from polyfold.benchmark.candidates import Candidate
from polyfold.benchmark.floors import Floor, against_floor
from polyfold.benchmark.results import Breakdown, Figure
from polyfold.benchmark.spec import BenchmarkSpec
from polyfold.benchmark.sweeps import Floors, dense_floor, single_floor, text_floor
from polyfold.console import progress_bar
from polyfold.measure.rounds import Timing, Work, take_turns
from polyfold.measure.speed import PADDED, REAL_TEXT, SpeedReport, SpeedSpec
from polyfold.measure.workloads import batches_work, distinct_texts, text_work

TOKENIZING, MODEL, WHOLE = "tokenizing", "model", "whole"


def speed_figures(
    candidate: Candidate, floor: Floor | None, report: SpeedReport, texts: Sequence[str], spec: SpeedSpec
) -> dict[str, Figure]:
    """By key; the floor of real texts is that of the model alone, while the whole predictor was timed."""
    encode, length = candidate.predictor.tokenizer.encode, candidate.config.max_length
    lengths = encode(texts, length).lengths
    singles = encode(distinct_texts(texts, spec.single_texts), length).lengths
    found = {}
    for key, timing in report.subjects[candidate.name].items():
        if key in (REAL_TEXT, PADDED):
            least, documents = text_floor(floor, lengths, spec.token_budget), len(lengths)
            single = single_floor(floor, singles)
        else:
            documents, width = (int(side) for side in key.split("x"))
            least = single = dense_floor(floor, (documents, width))
        speedup = report.speedup[candidate.name].get(key)
        found[key] = against_floor(timing, least, documents, single, speedup)
    return found


def measure_breakdowns(
    candidates: Sequence[Candidate], floors: Floors, texts: Sequence[str], spec: BenchmarkSpec
) -> dict[str, Breakdown]:
    """Tokenizing alone, the model alone on ready batches, and the whole predictor, all in turns."""
    works: dict[tuple[str, str], Work] = {}
    turns, budget = spec.speed.turns, spec.speed.token_budget
    for one in candidates:
        subject = one.subject(spec)
        encoding = subject.encode(texts)
        call = [lambda subject=subject: subject.encode(texts)]
        works[one.name, TOKENIZING] = Work(call, len(texts), len(texts), call, turns)
        works[one.name, MODEL] = batches_work(subject, encoding, subject.pad_id, budget, turns)
        works[one.name, WHOLE] = text_work(subject, texts, 0, turns)
    with progress_bar("parts of the predictor", 1) as bar:
        timings = take_turns(works)
        bar.advance()
    return {
        one.name: _breakdown(
            *(timings[one.name, part] for part in (TOKENIZING, MODEL, WHOLE)),
            least=text_floor(floors.get(one.name), one.subject(spec).encode(texts).lengths, budget),
            documents=len(texts),
        )
        for one in candidates
    }


def _breakdown(
    tokenizing: Timing, model: Timing, whole: Timing, *, least: float | None, documents: int
) -> Breakdown:
    shares = [100.0 * whole.documents_per_second / part.documents_per_second for part in (tokenizing, model)]
    return Breakdown(
        tokenizing=tokenizing,
        model=model,
        whole_documents_per_second=whole.documents_per_second,
        tokenizing_percent=shares[0],
        model_percent=shares[1],
        rest_percent=100.0 - sum(shares),
        model_share=against_floor(model, least, documents, None).share,
    )
