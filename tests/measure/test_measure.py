"""The laws of the measuring stage, on the models of a finished toy run."""

import numpy as np
import pytest

from polyfold.artifact import Artifact
from polyfold.data.prepare import load_dataset
from polyfold.errors import InputError
from polyfold.measure.gates import GateSpec
from polyfold.measure.measure import Candidate, Ensemble, MeasureSpec, measure
from polyfold.measure.workloads import PredictorSubject
from polyfold.predictor import Predictor
from polyfold.text import pad

IDENTITY = {"name": "toy", "recipe_hash": "0" * 16}
QUIET = MeasureSpec(baseline=None, memory=False)
QAT = "teacher.trim_vocabulary.int8_qat"


@pytest.fixture(scope="module")
def folders(toy_run):
    """Artifacts of the toy run by stage name."""
    return {stage.name: Artifact.open(stage.folder(toy_run.out)) for stage in toy_run.plan.stages()}


@pytest.fixture(scope="module")
def data(folders):
    return load_dataset(folders["data"])


def candidate(folders, name, stage, parent=None, **more):
    return Candidate(name, stage, parent, (folders[name],), **more)


def test_a_row_scores_as_the_run_scored_it(toy_run, folders, data):
    rows = [candidate(folders, "teacher", "teacher"), candidate(folders, QAT, "int8_qat", "teacher", timed=False)]
    report = measure(QUIET, rows, data, toy_run.project, 0, IDENTITY)
    for row in report.rows:
        before = toy_run.report.row(row.name)
        assert (row.macro_f1, row.calibration_error) == (before.macro_f1, before.calibration_error)
        # The run's own teachers were asked as a set, which has no profile.
        assert before.profile == (row.profile if row.name == QAT else None)
        assert row.profile.documents == len(data.test) == sum(row.profile.tokens)
        assert row.speed == {}
    assert report.speed_baseline is None
    assert report.quality_baseline == "teacher"


def test_memory_is_measured_in_a_process_of_its_own(toy_run, folders, data):
    name = f"{QAT}.onnxruntime"
    rows = [candidate(folders, "teacher", "teacher", timed=False), candidate(folders, name, "export", "teacher")]
    report = measure(QUIET.model_copy(update={"memory": True}), rows, data, toy_run.project, 0, IDENTITY)
    by_name = {row.name: row.peak_memory_mb for row in report.rows}
    # What is not timed is not weighed either; a process without torch is far below this one.
    assert by_name["teacher"] is None
    assert 20 < by_name[name] < 400


def test_an_export_that_disagrees_with_its_model_is_warned_of(toy_run, folders, data):
    stranger = "small.trim_vocabulary.int8_qat.onnxruntime"
    rows = [
        candidate(folders, "teacher", "teacher"),
        candidate(folders, "teacher.trim_vocabulary", "trim_vocabulary", "teacher", reference="teacher"),
        candidate(folders, stranger, "export", "teacher", reference="teacher"),
    ]
    report = measure(QUIET, rows, data, toy_run.project, 0, IDENTITY)
    same, other = report.row("teacher.trim_vocabulary"), report.row(stranger)
    assert set(same.label_agreement_percent) == set(other.label_agreement_percent)
    assert min(other.label_agreement_percent.values()) < 99.5
    disagreeing = [warning for warning in report.warnings if "agrees with its torch model" in warning]
    assert disagreeing
    assert any(stranger in warning for warning in disagreeing)


def test_gates_are_checked_against_the_teacher_and_misspelt_ones_refused(toy_run, folders, data):
    rows = [candidate(folders, "teacher", "teacher"), candidate(folders, "small", "student", "teacher")]

    def gated(gates):
        return measure(QUIET.model_copy(update={"gates": gates}), rows, data, toy_run.project, 0, IDENTITY)

    report = gated(GateSpec(greatest_drop=0.0, language_drop=100.0))
    whole = {gate.task: gate for gate in report.gates if gate.language is None}
    teacher, small = report.rows
    assert set(whole) == set(teacher.macro_f1)
    for task, gate in whole.items():
        drop = 100 * (teacher.macro_f1[task] - small.macro_f1[task])
        assert gate.drop == pytest.approx(drop)
        assert gate.passed == (drop <= 1e-9)
    assert {gate.language for gate in report.gates if gate.language} == {"de", "en"}
    with pytest.raises(InputError, match=r"measure\.gates\.tasks"):
        gated(GateSpec(tasks={"dommain": 1.0}))


def test_an_ensemble_asks_every_member(folders, data):
    names = ("teacher", "teacher.trim_vocabulary")
    members = tuple(PredictorSubject.of(Predictor.open(folders[name].path), 4096, 4) for name in names)
    both = Ensemble(members)
    texts = list(data.test.texts[:4])
    assert both.run_texts(texts) == [member.run_texts(texts) for member in members]
    assert both.pad_id == members[0].pad_id
    encoding = both.encode(texts)
    assert [one.tolist() for one in encoding.ids] == [one.tolist() for one in members[0].encode(texts).ids]
    ids, mask = pad([one % 100 for one in encoding.ids], both.pad_id)
    answers = both.run_ids(ids, mask)
    assert len(answers) == 2
    for answer, member in zip(answers, members, strict=True):
        for name, values in member.run_ids(ids, mask).items():
            np.testing.assert_array_equal(answer[name], values)
