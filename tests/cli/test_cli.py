"""The command line: what each command does, and that a mistake is one message and exit code 2."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from polyfold import __version__, cli
from polyfold.measure.report import load_report
from polyfold.predictor import Predictor
from toys_pipeline import TASKS, digests, toy_recipe, toy_rows, write_toy_data

COMMANDS = (
    "run",
    "data check",
    "predict",
    "report",
    "clean",
    "compare",
    "ablate",
    "extend",
    "benchmark",
    "serve",
    "key new",
    "key list",
    "key revoke",
)
PROGRAM = Path(sys.executable).with_name("polyfold")


@pytest.fixture(scope="module")
def model(toy_run):
    """The folded toy teacher in ONNX Runtime: an artifact of a real run."""
    (folder,) = toy_run.out.glob("teacher.trim_vocabulary.int8_qat.onnxruntime-*")
    return folder


@pytest.fixture
def own_run(toy_run, tmp_path):
    """A copy of the finished run that a test may change; its recipe still lies in the project."""
    shutil.copytree(toy_run.out, tmp_path / "out")
    return tmp_path / "out"


def test_help_shows_an_example_for_every_command_without_importing_torch():
    script = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from polyfold.cli import app\n"
        "said = {}\n"
        f"for name in {['', *COMMANDS]!r}:\n"
        "    done = CliRunner().invoke(app, [*name.split(), '--help'])\n"
        "    assert done.exit_code == 0\n"
        "    said[name] = done.output\n"
        "heavy = ('torch', 'transformers', 'nncf', 'onnxruntime', 'openvino', 'pyarrow')\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
        "print(json.dumps(said))\n"
    )
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said) == 1 + len(COMMANDS)
    for name in COMMANDS:
        assert name.split()[0] in said[""]
        assert f"Example: polyfold {name}" in said[name] or f"Examples: polyfold {name}" in said[name]


def test_the_installed_program_ends_a_users_mistake_with_one_message(tmp_path):
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(toy_recipe(sed=1)), encoding="utf8")
    command = [str(PROGRAM), "run", "bad.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert "key 'sed'" in done.stderr
    assert "did you mean 'seed'?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_version_and_unknown_words(polyfold):
    assert polyfold("--version") == (0, f"{__version__}\n", "")
    for arguments, word in ((["run", "--fast"], "--fast"), (["rum"], "rum"), (["run"], "RECIPE")):
        code, out, err = polyfold(*arguments)
        assert (code, out) == (2, "")
        assert word in err
        assert "Traceback" not in err


def test_a_dry_run_says_what_is_reused_and_what_runs_and_does_nothing(toy_run, polyfold):
    def happens(*more):
        runner = CliRunner().invoke(
            cli.app,
            ["run", str(toy_run.recipe), "--dry-run", *more],
            env={"COLUMNS": "240"},
            catch_exceptions=False,
        )
        assert runner.exit_code == 0
        lines = [line for line in runner.output.splitlines() if "│" in line and "-" in line]
        cells = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in lines]
        return {cell[0]: cell[3] for cell in cells}

    before = digests(toy_run.project)
    here = ["--out", str(toy_run.out)]
    names = {stage.name for stage in toy_run.plan.stages()}
    assert happens(*here) == dict.fromkeys(names, "reuse")
    changed = happens(*here, "--set", "students.0.fit.epochs=5")
    assert changed == {name: "run" if name.startswith(("small", "report")) else "reuse" for name in names}
    assert happens("--out", str(toy_run.project / "nowhere")) == dict.fromkeys(names, "run")
    assert digests(toy_run.project) == before


def test_a_stage_that_was_killed_will_be_resumed(toy_run, own_run):
    (folder,) = own_run.glob("small-*")
    (folder / "manifest.json").unlink()
    arguments = ["run", str(toy_run.recipe), "--dry-run", "--out", str(own_run)]
    said = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "240"}).output
    assert said.count("resume") == 1
    assert said.count("reuse") == 11


def test_a_broken_gate_is_named_and_the_exit_code_is_one(toy_run, own_run, polyfold):
    strict = ["--set", "measure.gates={greatest_drop: 0, language_drop: 0}", "--set", "measure.baseline=null"]
    code, _, err = polyfold("run", toy_run.recipe, "--out", own_run, *strict)
    assert code == 1
    broken = load_report(own_run).broken_gates
    assert broken
    assert err.count("gate broken:") == len(broken)
    assert f"task '{broken[0].task}'" in err
    assert "Traceback" not in err
    # The finished report is reused, and its gates are broken still.
    assert polyfold("run", toy_run.recipe, "--out", own_run, *strict)[0] == 1
    loose = ["--set", "measure.gates.greatest_drop=100", "--set", "measure.baseline=null"]
    assert polyfold("run", toy_run.recipe, "--out", own_run, *loose)[0] == 0


def test_data_check_prints_tables_and_writes_json(toy_run, tmp_path, polyfold):
    target = tmp_path / "check.json"
    code, out, err = polyfold("data", "check", toy_run.recipe, "--out", tmp_path / "out", "--json", target)
    assert (code, "Traceback" in err) == (0, False)
    found = json.loads(target.read_text(encoding="utf8"))
    assert found
    assert "domain" in out
    assert "billing" in out
    texts = [row["text"] for row in toy_rows()]
    assert not [text for text in texts if text in out or text in target.read_text(encoding="utf8")]


def test_data_check_of_data_with_a_mistake_is_one_message(tmp_path, polyfold):
    rows = toy_rows()
    write_toy_data(tmp_path / "toy.csv", [{key: row[key] for key in row if key != "topics"} for row in rows])
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(toy_recipe()), encoding="utf8")
    code, out, err = polyfold("data", "check", tmp_path / "toy.yaml", "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "topics" in err
    assert "toy.csv" in err
    assert not (tmp_path / "out").exists()


def read_back(path):
    """The rows of a predictions file of any format, labels as the predictor gives them."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]
    with path.open(encoding="utf8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "topics": [one for one in row["topics"].split("|") if one]} for row in rows]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_labels_a_file_in_its_order(toy_run, model, tmp_path, polyfold, suffix):
    target = tmp_path / f"labels.{suffix}"
    code, out, err = polyfold("predict", model, toy_run.project / "toy.csv", "--out", target)
    assert (code, out) == (0, "")
    assert "60 documents" in err
    expected = Predictor.open(model).predict([row["text"] for row in toy_rows()])
    found = read_back(target)
    assert [str(row["id"]) for row in found] == [row["id"] for row in toy_rows()]
    for row, prediction in zip(found, expected, strict=True):
        assert {task.name: row[task.name] for task in TASKS} == prediction.labels
        assert "text" not in row


def test_predict_reads_standard_input_and_writes_standard_output(model):
    texts = [row["text"] for row in toy_rows()[:5]]
    done = subprocess.run(
        [str(PROGRAM), "predict", str(model)],
        input="\n".join(texts) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    expected = Predictor.open(model).predict(texts)
    assert [{task.name: row[task.name] for task in TASKS} for row in found] == [one.labels for one in expected]


def test_predict_takes_tasks_thresholds_and_columns(toy_run, model, tmp_path, polyfold):
    target = tmp_path / "some.jsonl"
    options = ["--task", "topics", "--threshold", "topics=0.9", "--threshold", "topics:price=0", "--probabilities"]
    with pytest.raises(AssertionError):
        assert polyfold("predict", model, toy_run.project / "toy.csv", "--out", target, *options)[0] == 0
    options[3] = "topics:speed=1"
    code, _, err = polyfold(
        "predict", model, toy_run.project / "toy.csv", "--out", target, *options, "--keep", "split"
    )
    assert code == 0, err
    rows = read_back(target)
    assert len(rows) == 60
    assert {"domain", "sentiment"}.isdisjoint(rows[0])
    assert all("price" in row["topics"] and "speed" not in row["topics"] for row in rows)
    assert all(0 <= row["topics:staff"] <= 1 for row in rows)
    assert [row["split"] for row in rows] == [row["split"] for row in toy_rows()]


def test_predict_on_the_fastest_runtime_says_which_and_measures_once(
    toy_run, model, tmp_path, polyfold, monkeypatch
):
    monkeypatch.setenv("POLYFOLD_CACHE", str(tmp_path / "cache"))
    answers = []
    for runtime in ("auto", "auto", "onnxruntime", "openvino"):
        target = tmp_path / f"{len(answers)}.jsonl"
        command = ("predict", model, toy_run.project / "toy.csv", "--out", target, "--runtime", runtime)
        code, _, err = polyfold(*command, "--threads", 1)
        assert code == 0, err
        said = [line for line in err.splitlines() if line.startswith("runtime: ")]
        when = ["now", "before"][len(answers)] if runtime == "auto" else None
        assert [f"measured {when}" in line for line in said] == ([True] if when else [])
        answers.append(read_back(target))
    assert all(one == answers[0] for one in answers)
    assert len(list((tmp_path / "cache" / "runtimes").glob("*.json"))) == 1
    assert list((tmp_path / "cache" / "compiled").iterdir())


def test_predict_keeps_compiled_models_where_it_is_told(toy_run, model, tmp_path, polyfold):
    command = ("predict", model, toy_run.project / "toy.csv", "--out", tmp_path / "labels.csv")
    code, _, err = polyfold(*command, "--runtime", "openvino", "--cache-dir", tmp_path / "compiled")
    assert code == 0, err
    assert list((tmp_path / "compiled").iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--runtime", "torch"], "cannot be opened in 'torch'"),
        (["--runtime", "abacus"], "abacus"),
        (["--threshold", "topics"], "not of the form"),
        (["--threshold", "topics=high"], "not of the form"),
        (["--threshold", "topics=nan"], "not of the form"),
        (["--threshold", "=0.5"], "not of the form"),
        (["--threshold", "topics=0.5", "--threshold", "topics:price=0.5"], "one threshold for all labels already"),
        (["--threshold", "domain=0.5"], "no threshold applies"),
        (["--task", "weather"], "no task 'weather'"),
        (["--text", "body"], "no such column"),
        (["--from", "xml"], "xml"),
        (["--threads", "0"], "at least 1"),
        (["--bf16"], "OpenVINO's option"),
    ],
)
def test_a_wrong_option_of_predict_is_one_message(toy_run, model, tmp_path, polyfold, options, words):
    target = tmp_path / "labels.csv"
    code, out, err = polyfold("predict", model, toy_run.project / "toy.csv", "--out", target, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert not target.exists()


def test_report_draws_again_what_the_run_drew(own_run, polyfold):
    before = digests(own_run)
    for name in ("report.md", "report.html"):
        (own_run / name).unlink()
    code, out, err = polyfold("report", own_run)
    assert code == 0
    assert "report.html" in err
    assert "teacher" in out
    assert digests(own_run) == before
    code, _, err = polyfold("report", own_run.parent)
    assert code == 2
    assert "no report.json here" in err


def foreign(root):
    """Folders and files that Polyfold did not make, some of them with names like its own."""
    for name in ("photos", "cache-0123456789abcdef", "checkpoints/epoch0001", "app-fedcba9876543210", "data-v1"):
        (root / name).mkdir(parents=True)
        (root / name / "keep.txt").write_text("mine", encoding="utf8")
    (root / "cache-0123456789abcdef" / "manifest.json").write_text("{}", encoding="utf8")
    (root / "app-fedcba9876543210" / "manifest.json").write_text('{"name": "app"}', encoding="utf8")
    (root / "photos" / "manifest.json").write_text("{}", encoding="utf8")
    (root / "notes-0123456789abcdef").write_text("a file", encoding="utf8")
    return {path.relative_to(root) for path in root.rglob("keep.txt")} | {Path("notes-0123456789abcdef")}


def test_clean_lists_first_and_deletes_only_with_yes_and_only_its_own(toy_run, own_run, polyfold):
    mine = foreign(own_run)
    assert len(mine) == 6
    before = digests(own_run)
    code, _, err = polyfold("clean", own_run)
    assert code == 0
    assert err.count("would delete") == 13
    assert "add --yes" in err
    assert digests(own_run) == before
    code, _, err = polyfold("clean", own_run, "--yes")
    assert code == 0
    left = {path.relative_to(own_run) for path in own_run.rglob("*") if path.is_file()}
    reports = {Path("report.json"), Path("report.md"), Path("report.html")}
    manifests = {
        Path(name) / "manifest.json" for name in ("photos", "cache-0123456789abcdef", "app-fedcba9876543210")
    }
    assert left == mine | reports | manifests
    assert "nothing to delete" in polyfold("clean", own_run)[2]
    assert "nothing to delete" in polyfold("clean", own_run / "nowhere")[2]


def test_clean_keeps_what_a_recipe_uses(toy_run, own_run, polyfold):
    keep = ["--keep-recipe", toy_run.recipe, "--set", "students.0.fit.epochs=9"]
    unfinished = own_run / "small-0123456789abcdef"
    unfinished.mkdir()
    code, _, _ = polyfold("clean", own_run, *keep, "--yes")
    assert code == 0
    left = {path.name.rpartition("-")[0] for path in own_run.iterdir() if path.is_dir()}
    assert left == {
        stage.name for stage in toy_run.plan.stages() if not stage.name.startswith(("small", "report"))
    }
    assert not unfinished.exists()


def test_an_interrupt_says_how_to_go_on(toy_run, monkeypatch, polyfold, tmp_path):
    def interrupted(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr("polyfold.pipeline.run", interrupted)
    code, _, err = polyfold("run", toy_run.recipe, "--out", tmp_path)
    assert code == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
