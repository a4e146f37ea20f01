"""Speed: both sides get the same work, the figures are those of the clock, memory is the model's own."""

import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from pydantic import ValidationError

from polyfold.errors import InputError
from polyfold.measure.memory import predicting_memory_mb
from polyfold.measure.speed import PADDED, REAL_TEXT, SpeedSpec, measure_speed
from polyfold.measure.workloads import PredictorSubject
from polyfold.system import peak_memory_mb
from toys import RecordingSession

QUICK = SpeedSpec(
    shapes=((1, 8), (4, 8)),
    rounds=3,
    round_seconds=0.0,
    baseline_rounds=2,
    documents=40,
    padded_documents=10,
    single_texts=5,
    token_budget=100,
    batch_sizes=(2, 4),
)


@dataclass
class Slow:
    """A baseline that takes a fixed time a call and remembers its input."""

    seconds: float = 0.0
    seen: list = field(default_factory=list)

    def run_ids(self, input_ids, attention_mask):
        self.seen.append((input_ids, attention_mask))
        time.sleep(self.seconds)


@pytest.fixture(scope="module")
def measured(onnx_predictor, toy_texts):
    """One quick measurement: the report, the subject's batches and the baseline's."""
    session = RecordingSession(onnx_predictor.session)
    subject = PredictorSubject.of(replace(onnx_predictor, session=session), QUICK.token_budget, QUICK.documents)
    slow = Slow(0.002)
    report = measure_speed({"toy": subject}, slow, [*toy_texts, *toy_texts], QUICK)
    return report, session.batches, slow.seen


def test_every_key_has_figures_of_both_sides(measured):
    report, _, _ = measured
    keys = {"1x8", "4x8", REAL_TEXT, PADDED}
    assert set(report.subjects["toy"]) == set(report.baseline) == set(report.speedup["toy"]) == keys
    for timing in (*report.subjects["toy"].values(), *report.baseline.values()):
        assert timing.documents_per_second_least <= timing.documents_per_second
        assert timing.documents_per_second <= timing.documents_per_second_most
        assert 0 < timing.latency_ms_p50 <= timing.latency_ms_p99
    assert report.subjects["toy"][PADDED] == report.subjects["toy"][REAL_TEXT]
    assert report.subjects["toy"]["4x8"].rounds == 3
    assert report.baseline["4x8"].rounds == 2
    assert report.baseline_batch_size in QUICK.batch_sizes


def test_the_baselines_figures_are_those_of_its_clock(measured):
    report, _, _ = measured
    dense = report.baseline["4x8"]
    # Two milliseconds a call of four documents, as far as a busy machine sleeps on time.
    assert dense.latency_ms_p50 >= 2.0
    assert dense.documents_per_second <= 4 / 0.002
    assert dense.speed.documents_per_second == dense.documents_per_second
    toy = report.subjects["toy"]["4x8"].documents_per_second
    assert report.speedup["toy"]["4x8"] == pytest.approx(toy / dense.documents_per_second)


def documents_of(batch):
    """A batch's documents without their padding, whose id is 1."""
    return tuple(np.trim_zeros(row - 1, "b").tobytes() for row in batch)


def test_on_real_text_both_sides_get_the_same_batches(measured):
    _, batches, seen = measured
    # The subject's may be padded further.
    ours = {documents_of(batch) for batch in batches if batch.shape[0] > 1 and batch.shape[1] != 8}
    theirs = {documents_of(ids) for ids, _ in seen if ids.shape[0] > 1 and ids.shape[1] not in (8, 128)}
    assert len(ours) > 3
    assert ours == theirs
    assert all(ids.size <= QUICK.token_budget for ids, _ in seen if ids.shape[1] not in (8, 128))


def test_dense_input_has_no_padding_and_the_padded_baseline_is_128_wide(measured):
    report, _, seen = measured
    assert all(mask.all() for ids, mask in seen if ids.shape in {(1, 8), (4, 8)})
    padded = [mask for ids, mask in seen if ids.shape == (report.baseline_batch_size, 128)]
    assert padded
    assert not any(mask.all(axis=1).any() for mask in padded)


def test_without_real_text_only_the_shapes_are_measured(onnx_predictor, toy_texts):
    spec = QUICK.model_copy(update={"real_text": False})
    subject = PredictorSubject.of(onnx_predictor, spec.token_budget, spec.documents)
    report = measure_speed({"toy": subject}, Slow(), toy_texts, spec)
    assert set(report.baseline) == {"1x8", "4x8"}
    assert report.baseline_batch_size is None


def test_without_a_baseline_the_subjects_are_measured_alone(onnx_predictor, toy_texts):
    subject = PredictorSubject.of(onnx_predictor, QUICK.token_budget, QUICK.documents)
    report = measure_speed({"toy": subject}, None, toy_texts, QUICK)
    assert set(report.subjects["toy"]) == {"1x8", "4x8", REAL_TEXT}
    assert (report.baseline, report.speedup) == ({}, {"toy": {}})


def test_the_baseline_stops_after_its_seconds(onnx_predictor, toy_texts):
    spec = QUICK.model_copy(update={"baseline_rounds": 50, "baseline_seconds": 0.0, "real_text": False})
    report = measure_speed(
        {"toy": PredictorSubject.of(onnx_predictor, spec.token_budget, spec.documents)}, Slow(), toy_texts, spec
    )
    assert {timing.rounds for timing in report.baseline.values()} == {1}
    assert report.subjects["toy"]["4x8"].rounds == 3


def test_a_misspelt_option_is_refused():
    with pytest.raises(ValidationError):
        SpeedSpec(round=3)


def test_memory_is_the_models_own_and_not_the_callers(toy_folders, toy_texts):
    ballast = np.ones(60_000_000)
    own = peak_memory_mb()
    assert own > ballast.nbytes / 1e6
    found = predicting_memory_mb(toy_folders["onnxruntime"], toy_texts, threads=1)
    assert 20 < found < own - 200


def test_memory_of_a_folder_that_holds_no_model_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="could not be measured"):
        predicting_memory_mb(tmp_path, ["w1"])
