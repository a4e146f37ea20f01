"""The GPU benchmark without a GPU: it tries itself on toys, refuses clearly, and its ratios are of one round."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu
import gpu_subjects as subjects
from polyfold.errors import InputError
from polyfold.model.classifier import save_model
from polyfold.runtimes.torch import TorchOptions

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_the_harness_tries_itself_on_toys(tmp_path, capsys):
    assert gpu.main([str(tmp_path), "--device", "cpu", "--quick"]) == 0
    found = gpu.GpuFile(**json.loads((tmp_path / "gpu.json").read_bytes()))
    assert list(found.rows) == ["toy-base fp32", "toy-small fp32 unpadded"] and found.baseline == "toy-base fp32"
    assert not found.failures and found.hardware.accelerator is None
    for name, row in found.rows.items():
        assert set(row.speed) == {gpu.DENSE, gpu.SERVED, gpu.BEST, gpu.REAL, gpu.PADDED}
        assert row.label_agreement_percent == 100.0 and row.weights == "random"
        for key, one in row.speed.items():
            assert one.least <= one.documents_per_second <= one.most
            assert (one.share is None) == (key == gpu.SERVED)
            assert name != found.baseline or one.speedup == 1.0
    assert "gpu.json" in capsys.readouterr().out


@WITHOUT_GPU
def test_without_a_gpu_it_says_what_to_do_and_writes_nothing(tmp_path, capsys):
    assert gpu.main([str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "needs a GPU" in said and "--device cpu --quick" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--device", "cpu"], "--quick"),
        (["--device", "cpu", "--quick", "--weights", "minilm-l6"], "SHAPE=FOLDER"),
        (["--device", "cpu", "--quick", "--weights", "nothing=here"], "minilm-l6"),
        (["--device", "cpu", "--quick", "--only", "minilm-l6 fp4"], "toy-small fp32 unpadded"),
    ],
)
def test_what_it_cannot_use_is_refused(tmp_path, capsys, arguments, word):
    assert gpu.main([str(tmp_path), *arguments]) == 2
    assert word in capsys.readouterr().err


def test_a_speed_up_is_the_median_of_ratios_within_rounds():
    work = gpu.Work(lambda: None, documents=4, flops=4_000_000, at=4)
    found = gpu.timed([10.0, 40.0, 90.0], [1.0, 2.0, 30.0], work, peak=1e-3)
    assert (found.speedup, found.speedup_least, found.speedup_most) == (10.0, 3.0, 20.0)
    assert (found.documents_per_second, found.least, found.most) == (40.0, 10.0, 90.0)
    # 40 documents a second of a million operations each, over 10^9 operations a second.
    assert found.share == pytest.approx(0.04)
    assert gpu.timed([1.0], [1.0], work, peak=None).share is None


def test_every_other_round_runs_backwards():
    order = []
    plan = gpu.QUICK.model_copy(update={"rounds": 2})
    works = {
        name: dict.fromkeys(
            (gpu.DENSE, gpu.SERVED, gpu.BEST, gpu.REAL, gpu.PADDED),
            gpu.Work(lambda name=name: order.append(name), 1, 1, 1),
        )
        for name in "ab"
    }
    rates = gpu.measure(works, plan, "cpu", lambda told: None)
    assert "".join(order) == "abba" * 5
    assert {len(one) for one in rates.values()} == {2} and len(rates) == 10


def test_a_sweep_ends_where_the_memory_does():
    def make(size):
        if size > 2:
            raise torch.OutOfMemoryError("full")
        return gpu.Work(lambda: None, documents=size, flops=1, at=size)

    work, rates = gpu.best((1, 2, 4, 8), make, 0.0, "cpu")
    assert set(rates) == {1, 2} and work.at in rates


def test_a_way_that_fails_is_named_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    load = subjects.load

    def failing(way, folder, device):
        if way.shape == "toy-small":
            raise RuntimeError("the kernel is not there\nmuch more")
        return load(way, folder, device)

    monkeypatch.setattr(subjects, "load", failing)
    assert gpu.main([str(tmp_path), "--device", "cpu", "--quick"]) == 0
    found = gpu.GpuFile(**json.loads((tmp_path / "gpu.json").read_bytes()))
    assert found.failures == {"toy-small fp32 unpadded": "the kernel is not there"}
    assert list(found.rows) == ["toy-base fp32"]


def test_all_workloads_of_one_length_distribution_hold_the_same_documents():
    lengths = subjects.draw_lengths(200, 128)
    assert lengths.min() >= 3 and lengths.max() <= 128
    assert 18 < np.median(lengths) < 23
    for batches in (subjects.real(lengths, 500, 1024), subjects.padded(lengths, 500, 32, 128)):
        found = np.concatenate([mask.sum(axis=1) for _, mask in batches])
        assert sorted(found) == sorted(lengths)
        assert all((ids[mask == 0] == subjects.PAD_ID).all() for ids, mask in batches)
    assert all(ids.size <= 1024 for ids, _ in subjects.real(lengths, 500, 1024))


def test_ways_have_names_of_their_own_and_all_but_the_first_fit_the_gpu():
    ways = subjects.gpu_ways(compiled=True)
    assert len({way.name for way in ways}) == len(ways) == 15
    assert ways[0].name == "xlm-r-base fp32" and not ways[0].options.unpadded
    assert {way.options.precision for way in ways[1:]} == {"bf16", "fp8", "int8"}
    for shape in subjects.SHAPES.values():
        # Sides in sixteens for fp8, heads in eights for the variable-length kernel.
        assert not (shape.width % 16 or shape.feed_forward % 16 or shape.width // shape.heads % 8)


def test_a_folder_must_hold_the_shape_it_is_given_for(tmp_path):
    model = subjects.build("toy-small", None)
    (tmp_path / model.backbone.tokenizer.file).write_bytes(b"")
    save_model(model, tmp_path, tmp_path)
    loaded = subjects.build("toy-small", tmp_path)
    assert loaded.parameters == model.parameters
    with pytest.raises(InputError, match="not of the shape minilm-l6"):
        subjects.build("minilm-l6", tmp_path)


def test_a_baseline_is_padded_and_an_unpadded_way_counts_less():
    way = subjects.Way("toy-small", TorchOptions(unpadded=True))
    padded = subjects.Way("toy-small", TorchOptions())
    batch = subjects.padded(np.array([3, 9, 5]), 500, 3, 16)[0]
    assert subjects.load(way, None, "cpu").flops(batch) < subjects.load(padded, None, "cpu").flops(batch) / 2


def test_measured_peaks_are_positive_and_named_by_precision():
    found = subjects.peaks("cpu", 32, 0.0)
    assert "fp32" in found and set(found) <= {"fp32", "int8", "fp8"}
    assert all(value > 0 for value in found.values())
