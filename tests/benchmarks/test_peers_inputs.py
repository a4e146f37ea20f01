"""What peers are given: even and distinct texts, labels as numbers, and one stock model made of several."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers import __main__ as command  # noqa: E402
from peers import documents, merging  # noqa: E402
from peers.documents import Sizes, gather  # noqa: E402
from peers.results import PeersFile  # noqa: E402
from polyfold.errors import InputError  # noqa: E402
from polyfold.tasks import Task  # noqa: E402

TASKS = (
    Task(name="domain", labels=("billing", "delivery", "website")),
    Task(name="topics", kind="multi_label", labels=("price", "speed", "staff")),
)
LANGUAGES = ("de", "en")


def write_data(path, count=240):
    """Texts of two languages and one more, in all splits; some twice, some without labels, topics as lists."""
    words = {"de": "das Paket kam an", "en": "the parcel came", "fr": "le colis"}
    rows = []
    for number in range(count):
        language = ("de", "en", "de", "en", "fr")[number % 5]
        split = ("train", "dev", "test")[number // 5 % 3]
        domain = TASKS[0].labels[number % 3]
        topics = [label for place, label in enumerate(TASKS[1].labels) if (number >> place) & 1]
        text = f"{words[language]} {domain} {' '.join(topics)} {number}"
        rows.append({
            "id": f"{count - number:04}", "text": "Gut!" if number % 35 == 5 else text, "lang": language,
            "split": split, "domain": None if number % 7 == 0 else domain,
            "topics": None if number % 11 == 0 else topics,
        })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The parquet file and its rows."""
    path = tmp_path_factory.mktemp("data") / "feedback.parquet"
    return path, write_data(path)


def test_slices_are_even_over_languages_and_no_text_comes_twice(data, tmp_path):
    path, rows = data
    inputs = gather(path, LANGUAGES, TASKS, Sizes(slice=10, singles=7, train=50, dev=20, test=20), tmp_path)
    texts = [text for one in inputs.slices for text in one]
    assert len(texts) == len(set(texts)) and len(inputs.slices) >= 3
    by_text = {row["text"]: row["lang"] for row in rows if row["split"] == "test"}
    for one in inputs.slices:
        assert [by_text[text] for text in one].count("de") == 5 == len(one) / 2
    assert len(inputs.singles) == 7 == len(set(inputs.singles))
    stored = json.loads((tmp_path / "speed.json").read_bytes())
    assert stored == {"slices": inputs.slices, "singles": inputs.singles}


def test_the_short_sample_is_the_first_of_each_language_by_id():
    rows = [{"id": f"{n:03}", "text": f"{lang} {n}", "lang": lang} for n in range(20) for lang in ("de", "en")]
    table = pa.Table.from_pylist(rows[::-1])
    found = documents.short_sample(table, each=4)
    assert sorted(found) == sorted(f"{lang} {n}" for lang in ("de", "en") for n in range(4))
    assert [text[:2] for text in found] == ["de", "en"] * 4


def test_training_texts_are_none_of_those_that_are_scored(data, tmp_path):
    path, rows = data
    inputs = gather(path, LANGUAGES, TASKS, Sizes(slice=10, train=500, dev=500, test=500), tmp_path)
    train = json.loads((tmp_path / "train.json").read_bytes())
    assert inputs.train_documents == len(train["texts"]) > 20
    assert any(row["text"] == "Gut!" and row["split"] == "train" for row in rows)
    assert not set(train["texts"]) & {*inputs.dev.texts, *inputs.test.texts}
    by_text = {row["text"]: row for row in rows}
    for text, domain, topics in zip(
        train["texts"], train["labels"]["domain"], train["labels"]["topics"], strict=True
    ):
        row = by_text[text]
        assert row["lang"] in LANGUAGES and row["split"] == "train"
        assert (domain is None) == (row["domain"] is None)
        assert domain is None or TASKS[0].labels[domain] == row["domain"]
        assert (
            topics is None
            or [label for label, on in zip(TASKS[1].labels, topics, strict=True) if on] == row["topics"]
        )
    assert None in train["labels"]["domain"] and None in train["labels"]["topics"]


def test_the_truth_leaves_out_what_has_no_label():
    sample = documents.Sample(["a", "b", "c"], {"domain": [1, None, 0], "topics": [None, [1, 0, 1], None]})
    rows, truth = sample.truth(TASKS[0])
    assert (rows.tolist(), truth.tolist()) == ([0, 2], [1, 0])
    rows, truth = sample.truth(TASKS[1])
    assert (rows.tolist(), truth.tolist()) == ([1], [[1, 0, 1]])


def test_a_label_that_the_model_does_not_know_is_the_users_mistake(data, tmp_path):
    fewer = (Task(name="domain", labels=("billing", "delivery")), TASKS[1])
    with pytest.raises(InputError, match="'website' is no label"):
        gather(data[0], LANGUAGES, fewer, Sizes(), tmp_path)
    with pytest.raises(InputError, match="no document of split 'train'"):
        gather(data[0], ("tr",), TASKS, Sizes(), tmp_path)
    with pytest.raises(InputError, match="no column 'mood'"):
        gather(data[0], LANGUAGES, (Task(name="mood", labels=("a", "b")),), Sizes(), tmp_path)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A toy classifier as Polyfold exports it: stock folders a task, and ONNX."""
    from polyfold.export import OnnxRuntimeExport, export
    from polyfold.export_transformers import export_transformers
    from toys_families import family_model

    root = tmp_path_factory.mktemp("exported")
    (root / "source").mkdir()
    model = family_model("xlm-roberta", root / "source")
    export_transformers(model, root / "source", root / "stock", ["w1 w2"])
    export(OnnxRuntimeExport(), model, root / "source", root / "onnx")
    return root, model


def test_the_merged_model_gives_every_tasks_logits_from_one_pass(exported, tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification

    root, model = exported
    stock = merging.read_stock(root / "stock")
    merged = merging.merge(stock, tmp_path / "merged")
    names = ("input_ids", "attention_mask")
    ids = torch.randint(4, 50, (3, 9), generator=torch.Generator().manual_seed(0))
    batch = dict(zip(names, (ids, torch.ones_like(ids)), strict=True))
    with torch.no_grad():
        one = AutoModelForSequenceClassification.from_pretrained(merged)(**batch).logits
        each = [
            AutoModelForSequenceClassification.from_pretrained(path)(**batch).logits
            for path in stock.folders.values()
        ]
        ours = model.classifier.eval()(*batch.values())
    # The one matrix product is cut otherwise than three: the last digit may differ.
    np.testing.assert_allclose(one.numpy(), torch.cat(each, dim=1).numpy(), atol=1e-6)
    with np.load(merged / "heads.npz") as heads:
        linear = ours.pooled.numpy() @ heads["weights"] + heads["biases"]
    np.testing.assert_allclose(linear, one.numpy(), atol=1e-5)
    assert (stock.max_length, stock.pad_id, stock.pad_token) == (model.max_length, 1, "<pad>")
    assert [(task.name, task.kind, task.labels) for task in stock.tasks] == sorted(
        (task.name, task.kind, task.labels) for task in model.tasks
    )


def test_folders_that_are_not_of_one_model_are_refused(exported, tmp_path):
    from safetensors.numpy import load_file, save_file

    shutil.copytree(exported[0] / "stock", tmp_path / "stock")
    weights = next(iter(sorted((tmp_path / "stock").rglob("model.safetensors"), reverse=True)))
    tensors = load_file(weights)
    name = next(name for name in tensors if "word_embeddings" in name)
    save_file({**tensors, name: tensors[name] + 1}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"its encoder differs in '.*word_embeddings"):
        merging.merge(merging.read_stock(tmp_path / "stock"), tmp_path / "merged")
    dense = next(name for name in tensors if name.endswith("dense.weight") and "classifier" in name)
    save_file({**tensors, dense: tensors[dense] * 1.5 + 1}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match="not a linear one"):
        merging.merge(merging.read_stock(tmp_path / "stock"), tmp_path / "merged")
    with pytest.raises(InputError, match="no stock classifier here"):
        merging.read_stock(tmp_path / "merged" / "nothing")


@pytest.fixture(scope="module")
def toy_data(exported, tmp_path_factory):
    """Texts of the toy tokenizer's words, labelled for the exported model's tasks."""
    _, model = exported
    rng = np.random.default_rng(0)
    rows = []
    for number in range(300):
        split, language = ("train", "dev", "test")[number % 3], "en" if number % 2 else "de"
        row = {"id": f"{number:04}", "lang": language, "split": split}
        row["text"] = " ".join(f"w{word}" for word in rng.integers(0, 60, 6)) + f" w{number % 200}"
        for task in model.tasks:
            place = number // 3 % len(task.labels)
            row[task.name] = [task.labels[place]] if task.multi_label else task.labels[place]
        rows.append(row)
    path = tmp_path_factory.mktemp("texts") / "feedback.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_a_run_measures_who_can_run_and_names_who_cannot(exported, toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["peers.driver"], "size_mb", lambda python: 1.0)
    arguments = [
        "--transformers", exported[0] / "stock", "--export", f"ours={exported[0] / 'onnx'}", "--data", toy_data,
        "--languages", "de", "en", "--out", tmp_path / "out", "--work", tmp_path / "work", "--quick",
        "--only", "ours", "hashed-ngrams", "sentence-transformers-int8",
    ]  # fmt: skip
    # This Python stands in for every environment; sentence-transformers is not in it.
    assert command.main([str(one) for one in arguments], Path(sys.executable)) == 0
    found = PeersFile.model_validate_json((tmp_path / "out" / "peers.json").read_bytes())
    peers = {one.name: one for one in found.peers}
    assert list(peers) == ["sentence-transformers-int8", "hashed-ngrams", "ours"]
    assert "No module named 'sentence_transformers'" in peers["sentence-transformers-int8"].failed
    for name in ("hashed-ngrams", "ours"):
        one = peers[name]
        assert one.failed is None and one.speed and one.latency and one.quality and one.footprint
        assert set(one.quality.macro_f1) == {"domain", "topics"} and one.footprint.disk_mb > 0
        assert one.versions
    assert "python -m benchmarks.peers --transformers" in found.command and found.protocol.rounds == 2
    assert "hashed" in (tmp_path / "out" / "peers.md").read_text()
    assert "<svg" in (tmp_path / "out" / "peers.svg").read_text()


def test_mistakes_are_named_before_anything_is_installed(exported, toy_data, tmp_path, capsys):
    base = ["--transformers", str(exported[0] / "stock"), "--data", str(toy_data), "--work", str(tmp_path)]
    onnx = exported[0] / "onnx"
    for wrong, said in (
        (["--only", "nobody"], "no peer is named 'nobody'"),
        (["--export", "nothing"], "'nothing' names no folder"),
        (["--export", f"a={onnx}", "--student", f"a={onnx}"], "two peers are named 'a'"),
        (["--export", f"a={tmp_path}"], "no config.json here"),
    ):
        assert command.main([*base, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "environments").exists()


def test_a_folder_may_ask_for_bf16():
    plain, half = command.parsed("a=x/y,z", shared=True), command.parsed("b=x/y,bf16", shared=False)
    assert (plain.folder, plain.bf16, plain.shared) == (Path("x/y,z"), False, True)
    assert (half.folder, half.bf16, half.shared) == (Path("x/y"), True, False)


def test_a_model_with_other_labels_is_refused(exported):
    tasks = merging.read_stock(exported[0] / "stock").tasks
    given = command.parsed(f"a={exported[0] / 'onnx'}", shared=True)
    command.check_tasks(given, tasks)
    swapped = tasks[0].model_copy(update={"labels": tasks[0].labels[::-1]})
    with pytest.raises(InputError, match="is not that of the stock folders"):
        command.check_tasks(given, [swapped])
