"""The whole benchmark on toys: every part is there, files are whole, and mistakes are told first."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polyfold.benchmark.agreement import references_of
from polyfold.benchmark.candidates import longest, open_candidates
from polyfold.benchmark.results import HTML, JSON, MARKDOWN, load_benchmark
from polyfold.benchmark.run import benchmark
from polyfold.benchmark.spec import BenchmarkSpec, quick
from polyfold.benchmark.tables import tables
from polyfold.benchmark.views import alerts, write_benchmark
from polyfold.errors import InputError
from polyfold.measure.speed import PADDED, REAL_TEXT
from polyfold.tasks import Task
from toys import TOY_MAX_LENGTH, write_toy_folder

PROGRAM = Path(sys.executable).with_name("polyfold")


@pytest.fixture(scope="module")
def measured(toy_folders, tmp_path_factory):
    """One quick benchmark of the toy on both runtimes, without a baseline; its folder and its value."""
    out = tmp_path_factory.mktemp("benchmark")
    spec = quick(BenchmarkSpec(baseline=None, bf16=True, reference=toy_folders["onnxruntime"]))
    found = benchmark(list(toy_folders.values()), spec, "polyfold benchmark toys")
    write_benchmark(found, out)
    return out, found


def test_every_part_of_every_artifact_is_there(measured):
    _, found = measured
    assert [entry.name for entry in found.entries] == ["onnxruntime", "openvino", "openvino, bf16"]
    for entry in found.entries:
        assert set(entry.speed) == {f"1x{TOY_MAX_LENGTH}", f"32x{TOY_MAX_LENGTH}", REAL_TEXT}
        assert {point.ladder for point in entry.sweeps} == {"batch size", "length", "token budget", "threads"}
        assert {one.together for one in entry.arrivals} == {1, 32}
        assert entry.agreement[0].least == 100.0
        assert entry.breakdown is not None
        assert entry.memory_mb > 20
    assert (found.texts.used, found.texts.given) == (48, 600)
    assert found.baseline is None
    assert found.hardware.versions["openvino"]


def test_every_speed_has_a_floor_that_it_does_not_pass(measured):
    _, found = measured
    shares = [figure.share for entry in found.entries for figure in entry.speed.values()]
    shares += [point.figure.share for entry in found.entries for point in entry.sweeps]
    shares += [one.latency_share for entry in found.entries for one in entry.arrivals]
    assert len(shares) > 40
    # A toy's products are nothing beside what surrounds them.
    assert all(0 < share < 1 for share in shares)


def test_the_files_are_one_value_and_the_page_loads_nothing(measured):
    out, found = measured
    assert sorted(path.name for path in out.iterdir()) == [HTML, JSON, MARKDOWN]
    assert load_benchmark(out) == found
    page = (out / HTML).read_text(encoding="utf8")
    assert "default-src 'none'" in page
    for title in (
        "Throughput by threads",
        "Latency under load",
        "Where the time goes",
        "Throughput and its floor",
    ):
        assert title in page
    markdown = (out / MARKDOWN).read_text(encoding="utf8")
    for table in tables(found):
        assert f"## {table.title}" in markdown
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert "governor" in markdown


def test_no_text_of_the_users_is_in_the_result(toy_folders, tmp_path):
    (tmp_path / "texts.txt").write_text("w1 w2 secretword\nw3\n", encoding="utf8")
    spec = quick(BenchmarkSpec(baseline=None, texts=tmp_path / "texts.txt", parts=("agreement",)))
    found = benchmark([toy_folders["onnxruntime"]], spec, "polyfold benchmark")
    assert "secretword" not in found.model_dump_json()
    assert found.entries[0].agreement == ()
    assert found.entries[0].speed == {}


def test_a_busy_machine_and_a_broken_floor_are_told(measured):
    _, found = measured
    busy = found.power_before.model_copy(update={"others_percent": 60.0})
    said = list(alerts(found.model_copy(update={"power_before": busy, "stolen_percent": 7.0})))
    assert any("60 %" in line for line in said)
    assert any("7.0 %" in line for line in said)


def test_mistakes_are_told_before_anything_is_measured(toy_folders, tmp_path):
    good = toy_folders["onnxruntime"]
    other = write_toy_folder(tmp_path / "other", "onnxruntime", [Task(name="mood", labels=("up", "down"))])
    plain = BenchmarkSpec(baseline=None)
    cases = [
        ([tmp_path], plain, "no config.json here"),
        ([good, good], plain, "given twice"),
        ([], plain, "no artifact"),
        ([good], plain.model_copy(update={"reference": other}), "not the tasks and labels"),
        ([good], plain.model_copy(update={"reference": tmp_path}), "no config.json here"),
        ([good], plain.model_copy(update={"shapes": ((4, 17),)}), "at most 16 tokens"),
        ([good], plain.model_copy(update={"runtimes": ("torch",)}), "cannot be opened in 'torch'"),
    ]
    for folders, spec, said in cases:
        with pytest.raises(InputError, match=said):
            benchmark(folders, spec, "polyfold benchmark")


def test_two_folders_of_one_name_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        write_toy_folder(tmp_path / parent / "model", "onnxruntime")
    with pytest.raises(InputError, match="one name"):
        open_candidates([tmp_path / "a" / "model", tmp_path / "b" / "model"], BenchmarkSpec())


def test_positions_bound_the_length_of_a_document(torch_toys, toy_folders):
    assert longest(torch_toys["transformer"]["folders"]["fp32"]["torch"]) == 132
    assert longest(torch_toys["convolutional"]["folders"]["fp32"]["torch"]) >= 512
    assert longest(toy_folders["onnxruntime"]) == TOY_MAX_LENGTH


def test_a_runs_folder_holds_the_references_of_its_exports(toy_run):
    (folder,) = toy_run.out.glob("teacher.trim_vocabulary.int8_qat.onnxruntime-*")
    found = references_of(folder)
    names = [(path.name.rpartition("-")[0], relation) for path, relation in found]
    assert names == [
        ("teacher.trim_vocabulary.int8_qat", "exported from"),
        ("teacher.trim_vocabulary", "before quantization"),
    ]
    (teacher,) = toy_run.out.glob("teacher-*")
    assert references_of(teacher) == []
    assert references_of(folder, teacher) == [(teacher, "given")]


def test_the_command_writes_its_files_and_says_what_it_found(toy_folders, tmp_path, polyfold):
    arguments = ["--no-baseline", "--quick", "--only", "speed", "--shape", "2x8", "--out", tmp_path / "out"]
    code, out, err = polyfold("benchmark", toy_folders["openvino"], *arguments)
    assert (code, "Traceback" in err) == (0, False)
    assert "openvino" in out
    assert "processor" in out
    found = json.loads((tmp_path / "out" / JSON).read_bytes())
    assert found["command"].startswith("polyfold benchmark ")
    assert set(found["entries"][0]["speed"]) == {"2x8", REAL_TEXT}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "32"], "not of the form 32x128"),
        (["--shape", "0x8"], "not of the form 32x128"),
        (["--lengths", "8,x"], "no list of whole numbers"),
        (["--batch-sizes", "0"], "no list of whole numbers"),
        (["--loads", "0.5,-1"], "no list of numbers"),
        (["--lengths", "8,4096"], "at most 16 tokens"),
        (["--runtime", "abacus"], "'abacus' cannot be used"),
        (["--only", "luck"], "'luck' cannot be used"),
        (["--texts", "none.csv"], "cannot open it"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_written(toy_folders, tmp_path, polyfold, arguments, said):
    out = tmp_path / "out"
    code, _, err = polyfold("benchmark", toy_folders["onnxruntime"], "--no-baseline", "--out", out, *arguments)
    assert code == 2
    assert said in err
    assert err.count("error:") == 1
    assert not out.exists()


def test_an_interrupt_leaves_no_file_behind(toy_folders, tmp_path):
    out = tmp_path / "out"
    command = [str(PROGRAM), "benchmark", str(toy_folders["onnxruntime"]), "--no-baseline", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, start_new_session=True) as running:
        # The first bar has ended, so the measuring has begun.
        said = running.stderr.readline()
        os.killpg(running.pid, signal.SIGINT)
        _, rest = running.communicate(timeout=30)
    assert b"label agreement" in said
    assert running.returncode == 130
    assert b"Traceback" not in rest
    assert not out.exists()


def test_without_a_baseline_torch_is_not_needed():
    script = (
        "import sys\n"
        "import polyfold.benchmark.run, polyfold.benchmark.views\n"
        "assert not [name for name in ('torch', 'transformers', 'openvino', 'plotly') if name in sys.modules]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_against_a_baseline_every_key_has_a_speedup_and_the_baseline_a_share(torch_toys, tmp_path):
    from toys_pipeline import write_hub_folder

    folders = torch_toys["transformer"]["folders"]
    hub = write_hub_folder(tmp_path / "hub")
    spec = BenchmarkSpec(
        baseline=str(hub), parts=("speed", "agreement"), reference=folders["fp32"]["torch"], shapes=((2, 16),)
    )
    found = benchmark([folders["fp32"]["torch"], folders["int8"]["openvino"]], quick(spec), "polyfold benchmark")
    keys = {"2x16", REAL_TEXT, PADDED}
    assert set(found.baseline.speed) == keys
    assert found.baseline.own_tokenizer
    assert all(0 < figure.share < 1 for figure in found.baseline.speed.values())
    for entry in found.entries:
        assert set(entry.speed) == keys
        for key, figure in entry.speed.items():
            rates = [one.timing.documents_per_second for one in (figure, found.baseline.speed[key])]
            assert figure.speedup == pytest.approx(rates[0] / rates[1])
    assert found.entries[0].agreement[0].least == 100.0
    # int8 of an untrained toy decides mostly, not always, as fp32 does.
    assert 50.0 < found.entries[1].agreement[0].least <= 100.0
    assert [entry.operations.source for entry in found.entries] == ["configuration", "graph"]
    rows = next(table for table in tables(found) if table.title == "Speed").rows
    assert len(rows) == 3 * len(keys)
