"""The laws of the whole run: what it makes, that it makes nothing twice, and that being killed changes nothing."""

import json
import signal
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
import torch
import yaml

from polyfold.artifact import MANIFEST, Artifact, read_config
from polyfold.measure.report import SCHEMA_FILE, load_report
from polyfold.pipeline import plan, run
from polyfold.predictor import Predictor
from polyfold.recipe import load_recipe
from toys_pipeline import TASKS, digests, quality, toy_recipe, toy_rows, write_toy_project

STEPS = ("trim_vocabulary", "trim_vocabulary.int8_qat")
EXPORTS = ("onnxruntime", "openvino", "openvino.bf16")


def rows_by_name(report):
    return {row.name: row for row in report.rows}


def test_the_report_keeps_its_contract(toy_run):
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf8"))
    report = json.loads((toy_run.out / "report.json").read_text(encoding="utf8"))
    jsonschema.validate(report, schema, cls=jsonschema.Draft202012Validator)
    assert report["recipe_hash"] == load_recipe(toy_run.recipe).hash
    assert (report["quality_baseline"], report["speed_baseline"]) == ("teacher", "toy-bert")


def test_every_model_has_its_row_and_its_parent(toy_run):
    rows = rows_by_name(toy_run.report)
    parents = {"toy-bert": None, "teacher": None, "small": "teacher"}
    for start in ("teacher", "small"):
        parents |= {f"{start}.trim_vocabulary": start, f"{start}.{STEPS[1]}": f"{start}.trim_vocabulary"}
        parents |= {f"{start}.{STEPS[1]}.{name}": f"{start}.{STEPS[1]}" for name in EXPORTS}
    assert {name: row.parent for name, row in rows.items()} == parents
    stages = {"toy-bert": "baseline", "teacher": "teacher", "small": "student"}
    for name, row in rows.items():
        last = name.removesuffix(".bf16").rpartition(".")[2]
        assert row.stage == stages.get(name, "export" if last in EXPORTS else last)
        precision = "int8" if "int8_qat" in name else "fp32"
        assert row.precision == (f"{precision}+bf16" if name.endswith("bf16") else precision)
        assert row.runtime == (last if last in EXPORTS else "torch")


def test_every_row_is_scored_and_timed_as_it_should_be(toy_run):
    keys = {"2x8", "real_text", "real_text_vs_padded_128"}
    for name, row in rows_by_name(toy_run.report).items():
        # A fake-quantized torch model is a reference, not something to run.
        timed = not name.endswith("int8_qat")
        assert set(row.speed) == set(row.speedup) == (keys if timed else set())
        if row.stage == "baseline":
            assert row.macro_f1 is None
            assert set(row.speedup.values()) == {1.0}
            continue
        assert set(row.macro_f1) == {task.name for task in TASKS}
        assert row.test_documents == 12
        assert (row.degradation_percent is None) == (name == "teacher")
        assert (row.label_agreement_percent is not None) == (row.stage == "export")


def test_exports_agree_with_their_torch_model(toy_run):
    rows = rows_by_name(toy_run.report)
    exports = [row for row in rows.values() if row.stage == "export" and "bf16" not in row.precision]
    assert len(exports) == 4
    for row in exports:
        # A barely trained model's margins are as narrow as a rounding step: one document of the few may flip.
        assert min(row.label_agreement_percent.values()) >= 100.0 * (1 - 1 / row.test_documents) - 1e-9


def test_trimming_makes_the_model_smaller_and_changes_no_training_text(toy_run):
    rows = rows_by_name(toy_run.report)
    folders = {stage.name: stage.folder(toy_run.out) for stage in toy_run.plan.stages()}
    texts = [row["text"] for row in toy_rows() if row["split"] == "train"]
    for start in ("teacher", "small"):
        trimmed = f"{start}.trim_vocabulary"
        assert rows[trimmed].parameters_million < rows[start].parameters_million
        assert rows[trimmed].trunk_parameters_million == rows[start].trunk_parameters_million
        before, after = (Predictor.open(folders[name]).logits(texts) for name in (start, trimmed))
        for name, values in before.items():
            np.testing.assert_allclose(after[name], values, atol=1e-5)


def test_the_plan_knows_every_folder_beforehand(toy_run):
    planned = [stage.folder(toy_run.out).name for stage in toy_run.plan.stages()]
    made = {path.name for path in toy_run.out.iterdir() if path.is_dir()}
    assert len(planned) == len(set(planned)) == 12
    assert made == {*planned, "cache"}
    for stage in toy_run.plan.stages():
        artifact = stage.finished(toy_run.out)
        artifact.verify()
        assert artifact.manifest.key == stage.key
        assert set(artifact.manifest.parents) <= {one.key for one in toy_run.plan.stages()}


def test_a_second_run_builds_nothing(toy_run, capfd):
    report = run(load_recipe(toy_run.recipe), toy_run.project, toy_run.out)
    assert digests(toy_run.out) == toy_run.before
    assert report == toy_run.report
    assert capfd.readouterr().err.count("reused") == 11


def test_what_changes_builds_what_depends_on_it_and_nothing_else(toy_run):
    recipe = load_recipe(toy_run.recipe)
    names = {stage.key: stage.name for stage in toy_run.plan.stages()}

    def rebuilt(*changes):
        chart = plan(load_recipe(toy_run.recipe, changes), toy_run.project)
        return {stage.name for stage in chart.stages() if stage.key not in names}

    everything = set(names.values())
    small = {name for name in everything if name.startswith("small")}
    assert rebuilt() == set()
    assert rebuilt("measure.speed.rounds=2") == {"report"}
    assert rebuilt("students.0.fit.epochs=3") == {*small, "report"}
    assert rebuilt("export.1.bf16=false") == {"report"}
    assert rebuilt("teacher.fit.epochs=3") == everything - {"data"}
    assert rebuilt("seed=1") == everything
    quantized = {name for name in everything if "int8_qat" in name}
    assert rebuilt("compress.1.calibration.documents=17") == {*quantized, "report"}
    assert recipe.hash == toy_run.report.recipe_hash


def test_another_local_backbone_is_another_teacher(tmp_path):
    path = write_toy_project(tmp_path)
    recipe = load_recipe(path)
    before = plan(recipe, tmp_path)
    assert plan(recipe, tmp_path) == before
    config = tmp_path / "toy-bert" / "config.json"
    config.write_text(config.read_text(encoding="utf8") + "\n", encoding="utf8")
    after = plan(recipe, tmp_path)
    assert after.data.key == before.data.key
    assert after.teachers.stages[0].key != before.teachers.stages[0].key
    student = "students=[{init: {kind: backbone, name: toy-bert}}]"
    (_, line) = plan(load_recipe(path, [student]), tmp_path).lines
    assert line.start.inputs == after.teachers.stages[0].inputs
    assert set(line.start.inputs) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_no_text_of_a_customer_is_in_reports_logs_or_cards(toy_run):
    names = {"report.json", "report.md", "report.html", "metrics.jsonl", "README.md"}
    files = [path for path in toy_run.out.rglob("*") if path.name in names]
    assert {path.name for path in files} == names
    contents = {str(path): path.read_text(encoding="utf8") for path in files} | {"printed": toy_run.said}
    assert len(contents["printed"]) > 500
    for where, content in contents.items():
        found = [row["id"] for row in toy_rows() if row["text"] in content or f"qx{row['id']}zj" in content]
        assert not found, where


def test_what_is_trained_is_logged(toy_run):
    logs = {path.parent.name.rpartition("-")[0]: path for path in toy_run.out.glob("*/metrics.jsonl")}
    assert set(logs) == {"teacher", "small", f"teacher.{STEPS[1]}", f"small.{STEPS[1]}"}
    for path in logs.values():
        entries = [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
        assert [entry["epoch"] for entry in entries if "epoch" in entry] == [1, 2][: len(entries)]


KILLED = """
import os, signal, sys
from pathlib import Path
from polyfold.pipeline import run
from polyfold.recipe import load_recipe
from polyfold.train import fit

recipe, out, moments = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[4])
save = fit.save_checkpoint
seen = []

def saved_and_killed(folder, *rest):
    save(folder, *rest)
    if folder.parent.name.startswith(sys.argv[3]):
        seen.append(folder)
        if len(seen) == moments:
            os.kill(os.getpid(), signal.SIGKILL)

fit.save_checkpoint = saved_and_killed
run(load_recipe(recipe), recipe.parent, out)
"""


def test_killed_runs_started_again_end_as_if_never_killed(toy_run, tmp_path):
    # The second checkpoint of the teacher lies in its first epoch; that of the quantized teacher too.
    for stage in ("teacher-", "teacher.trim_vocabulary.int8_qat-"):
        command = [sys.executable, "-c", KILLED, str(toy_run.recipe), str(tmp_path), stage, "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        (folder,) = tmp_path.glob(f"{stage}*")
        assert not (folder / MANIFEST).exists()
        assert list((folder / "checkpoints").iterdir())
    report = run(load_recipe(toy_run.recipe), toy_run.project, tmp_path)
    assert quality(report) == quality(toy_run.report)
    for stage in toy_run.plan.stages():
        if stage.kind in ("teacher", "student", "trim_vocabulary", "int8_qat", "export"):
            resumed, whole = stage.finished(tmp_path), stage.finished(toy_run.out)
            # OpenVINO's XML numbers its nodes anew in each process; its weights lie beside it.
            differ = resumed.manifest.files.items() ^ whole.manifest.files.items()
            assert {name.rpartition(".")[2] for name, _ in differ} <= {"xml"}


def test_one_teacher_a_task_is_one_row_over_all_tasks(toy_run, tmp_path):
    teacher = {**toy_recipe()["teacher"], "mode": {"kind": "per_task"}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(toy_recipe(teacher=teacher, compress=[], export=[])), encoding="utf8")
    recipe = load_recipe(path, [f"data.path={toy_run.project / 'toy.csv'}"])
    chart = plan(recipe, toy_run.project)
    assert [stage.name for stage in chart.teachers.stages] == [
        "teacher-domain",
        "teacher-sentiment",
        "teacher-topics",
    ]
    report = run(recipe, toy_run.project, tmp_path / "out")
    rows = rows_by_name(report)
    assert set(rows) == {"toy-bert", "teacher", "small"}
    assert set(rows["teacher"].macro_f1) == {task.name for task in TASKS}
    assert rows["teacher"].speed["real_text"].documents_per_second > 0
    artifacts = [stage.finished(tmp_path / "out") for stage in chart.teachers.stages]
    assert rows["teacher"].size_mb == pytest.approx(sum(artifact.size_mb for artifact in artifacts))
    for artifact, task in zip(artifacts, TASKS, strict=True):
        assert [one.name for one in artifact.config()[1]] == [task.name]


def test_random_weights_are_never_scored(toy_run, tmp_path):
    project = tmp_path / "project"
    path = write_toy_project(project, students=[], measure={"baseline": None, "memory": False})
    config = project / "toy-bert" / "config.json"
    settings = json.loads(config.read_text(encoding="utf8"))
    config.write_text(json.dumps({**settings, "polyfold_random_weights": True}), encoding="utf8")
    changes = ["teacher.fit.epochs=0", "compress.1.fit.epochs=0", "export=[{kind: onnxruntime}]"]
    recipe = load_recipe(path, changes)
    report = run(recipe, project, tmp_path / "out")
    assert len(report.rows) == 4
    assert {row.weights for row in report.rows} == {"random"}
    assert report.quality_baseline is None
    for row in json.loads(report.model_dump_json())["rows"]:
        assert not {"macro_f1", "degradation_percent", "label_agreement_percent", "thresholds"} & set(row)
    # An untrained stage is as readable and reusable as any other.
    for stage in plan(recipe, project).stages():
        assert Artifact.open(stage.folder(tmp_path / "out")).manifest.key == stage.key
    assert run(recipe, project, tmp_path / "out") == report


def test_a_trained_teacher_on_random_weights_is_scored(tmp_path):
    project = tmp_path / "project"
    path = write_toy_project(project, students=[], measure={"baseline": None, "memory": False}, export=[])
    config = project / "toy-bert" / "config.json"
    settings = json.loads(config.read_text(encoding="utf8"))
    config.write_text(json.dumps({**settings, "polyfold_random_weights": True}), encoding="utf8")
    report = run(load_recipe(path, ["compress=[]", "teacher.fit.epochs=1"]), project, tmp_path / "out")
    assert [(row.name, row.weights) for row in report.rows] == [("teacher", "trained")]
    assert set(report.rows[0].macro_f1) == {task.name for task in TASKS}
    assert report.rows[0].speed == {}


def test_the_seed_decides_everything(toy_run, tmp_path):
    recipe = load_recipe(toy_run.recipe, ["compress=[]", "export=[]", "measure.baseline=null"])
    torch.manual_seed(99)
    again = run(recipe, toy_run.project, tmp_path)
    same = {row.name: row.macro_f1 for row in again.rows}
    rows = rows_by_name(toy_run.report)
    assert same == {name: rows[name].macro_f1 for name in ("teacher", "small")}
    for name in ("teacher", "small"):
        (folder,) = tmp_path.glob(f"{name}-*")
        (whole,) = toy_run.out.glob(f"{name}-*")
        assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        assert read_config(folder) == read_config(whole)


def test_the_report_lies_in_the_root_too(toy_run):
    (stage,) = toy_run.out.glob("report-*")
    for name in ("report.json", "report.md", "report.html"):
        assert (toy_run.out / name).read_bytes() == (stage / name).read_bytes()
    assert load_report(toy_run.out) == load_report(stage)
