import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_drift import LANGUAGES, ROW, ToyRun

from polyfold.artifact import Stage
from polyfold.measure.report import REPORT
from polyfold.serve.watch.drift_reference import (
    NO_LABEL,
    OTHER,
    NoReference,
    Reference,
    base_language,
    reference_of,
)


@pytest.fixture
def run(tmp_path):
    return ToyRun(tmp_path, count=500)


def look(served, report=None):
    return reference_of(served.folder, served.config, report)


def changed(run, change):
    """The run's report after `change` of its JSON."""
    content = json.loads((run.root / REPORT).read_bytes())
    change(content)
    (run.root / REPORT).write_text(json.dumps(content))


def test_what_a_run_reports_is_what_served_texts_are_compared_with(run):
    served, profile = run.served(), run.report().row(ROW).profile
    found = look(served)
    assert isinstance(found, Reference)
    assert (found.row, found.missing, found.token_bounds) == (ROW, None, profile.token_bounds)
    by_name = {(one.name, one.task): one for one in found.expected}
    assert len(by_name) == len(found.expected) == 2 + 2 * len(served.tasks)
    assert by_name["length", None].counts.tolist() == list(profile.tokens)
    for task in served.tasks:
        labels, sure = by_name["label", task.name], by_name["confidence", task.name]
        assert labels.values == task.labels + ((NO_LABEL,) if task.multi_label else ())
        assert (
            dict(zip(labels.values, labels.counts, strict=True)).items() >= profile.tasks[task.name].labels.items()
        )
        assert sure.counts.sum() == 500
        assert sure.mean == profile.tasks[task.name].mean_confidence
    languages = by_name["language", None]
    assert set(languages.values) == {*LANGUAGES, OTHER}
    assert languages.counts[:-1].sum() == 500


def test_the_row_is_that_of_the_artifacts_name_or_the_only_one_of_its_kind(run):
    served = run.served()
    renamed = served.folder.rename(run.root / "production")
    assert reference_of(renamed, served.config).row == ROW
    Stage(kind="export", name=ROW, version=1, spec={}).finish(renamed, {})

    def second(content):
        content["rows"].insert(0, content["rows"][-1] | {"name": "another.onnxruntime"})

    changed(run, second)
    # The manifest tells the two apart; without it nothing does.
    assert reference_of(renamed, served.config).row == ROW
    (renamed / "manifest.json").unlink()
    found = reference_of(renamed, served.config)
    assert isinstance(found, NoReference)
    assert "'production'" in found.reason
    renamed.rename(served.folder)
    assert look(served).row == ROW


def test_a_report_may_lie_elsewhere_if_it_is_given(run, tmp_path_factory):
    served, elsewhere = run.served(), tmp_path_factory.mktemp("elsewhere")
    (run.root / REPORT).rename(elsewhere / REPORT)
    missing = look(served)
    assert isinstance(missing, NoReference)
    assert "--report" in missing.hint
    assert look(served, elsewhere / REPORT).row == look(served, elsewhere).row == ROW


def test_a_report_from_before_profiles_still_tells_the_languages(run):
    served = run.served()
    changed(run, lambda content: content["rows"][1].pop("profile"))
    found = look(served)
    assert [one.name for one in found.expected] == ["language"]
    assert found.expected[0].counts[:-1].sum() == 500
    assert "measure again" in found.missing


def test_what_a_newer_version_adds_is_passed_over(run):
    served = run.served()

    def newer(content):
        content["weather"] = "fine"
        content["rows"][1]["profile"]["tasks"]["domain"]["entropy"] = 0.5

    before = look(served)
    changed(run, newer)
    assert [one.values for one in look(served).expected] == [one.values for one in before.expected]


@settings(deadline=None)
@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.text(), st.lists).map(lambda it: json.dumps(it).encode())
)
def test_a_damaged_report_is_no_reference_and_no_crash(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / REPORT).write_bytes(content)
    found = reference_of(folder / "model", None, folder)
    assert isinstance(found, NoReference)
    assert "damaged" in found.reason


def test_counts_that_do_not_fit_their_bounds_are_damage(run):
    served = run.served()
    changed(run, lambda content: content["rows"][1]["profile"]["tokens"].pop())
    found = look(served)
    assert isinstance(found, NoReference)
    assert "rows.1.profile" in found.reason


def test_a_language_is_the_same_in_any_script_or_country(run):
    assert [base_language(code) for code in ("zh-Hans", "pt_BR", "EN", "de")] == ["zh", "pt", "en", "de"]
    served = run.served()

    def scripts(content):
        profile = content["rows"][1]["profile"]
        profile["languages"] = {"zh-Hans": 30, "zh-Hant": 20, "en": 50}

    changed(run, scripts)
    languages = look(served).expected[0]
    assert languages.values == ("zh", "en", OTHER)
    np.testing.assert_array_equal(languages.counts, [50, 50, 1])


def test_observing_imports_neither_torch_nor_what_draws_reports():
    code = (
        "import sys, polyfold.serve.watch.metrics, polyfold.serve.watch.stats\n"
        "print(sorted({'torch', 'transformers', 'plotly', 'scipy', 'py3langid'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
