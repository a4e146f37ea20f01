"""Toys for the whole way from texts to a report: a data set, a hub-style backbone, small models, a recipe."""

import csv
import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from typer.testing import CliRunner

from polyfold.artifact import digest_file
from polyfold.cli import app
from polyfold.compress.grids import prepare_grids
from polyfold.export import OnnxRuntimeExport, OpenVinoExport, export
from polyfold.measure.report import Report, load_report
from polyfold.model.backbone import Backbone, Transformer, token_embedding, use_backbone
from polyfold.model.classifier import new_classifier, save_model
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from polyfold.pipeline import Plan, plan
from polyfold.recipe import load_recipe
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec

MAX_LENGTH = 24
TASKS = (
    Task(name="domain", labels=("billing", "delivery", "website")),
    Task(name="sentiment", labels=("negative", "positive")),
    Task(name="topics", kind="multi_label", labels=("price", "speed", "staff")),
)
TASK_BLOCK = [{"name": task.name, "kind": task.kind} for task in TASKS]

SENTENCES = {
    "en": {
        "billing": "the invoice is wrong",
        "delivery": "the parcel came",
        "website": "the page shows my account",
        "negative": "and that is really bad",
        "positive": "and that is really good",
        "price": "expensive",
        "speed": "fast",
        "staff": "friendly people",
    },
    "de": {
        "billing": "die Rechnung ist falsch",
        "delivery": "das Paket kam an",
        "website": "die Seite zeigt mein Konto",
        "negative": "und das ist wirklich schlecht",
        "positive": "und das ist wirklich gut",
        "price": "teuer",
        "speed": "schnell",
        "staff": "freundliche Leute",
    },
}


def toy_rows(count=60, seed=0):
    """Distinct labelled texts in two languages, a fifth of the labels missing; 3/5 train, 1/5 dev, 1/5 test."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        language = "en" if number % 2 else "de"
        words = SENTENCES[language]
        domain = TASKS[0].labels[number // 2 % 3]
        sentiment = TASKS[1].labels[number // 6 % 2]
        topics = [name for name in TASKS[2].labels if generator.random() < 0.4]
        text = " ".join([words[domain], words[sentiment], *(words[name] for name in topics), f"qx{number}zj"])
        values = {"domain": domain, "sentiment": sentiment, "topics": "|".join(topics) or "[]"}
        for name in values:
            if number % 5 < 3 and generator.random() < 0.25:
                values[name] = ""
        split = ("train", "train", "train", "dev", "test")[number // 12 if count == 60 else number % 5]
        rows.append({"id": str(number), "text": text, "language": language, "split": split, **values})
    return rows


def write_toy_data(path, rows=None):
    """The rows as CSV."""
    rows = rows or toy_rows()
    with path.open("w", encoding="utf8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def write_wordpiece(folder):
    """A WordPiece tokenizer of the toy sentences in `tokenizer.json`, the same in every process; returns its size.

    Every character, then the most frequent beginnings and endings of words: the library's own trainer breaks ties
    at random.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    texts = [word for language in SENTENCES.values() for word in language.values()]
    texts += [row["text"] for row in toy_rows()] + ["completely different words that no customer wrote"] * 5
    words = " ".join(texts).split()
    characters = sorted(set("".join(words)))
    counts = Counter(word[:end] for word in words for end in range(2, len(word) + 1))
    counts.update(f"##{word[start:]}" for word in words for start in range(1, len(word) - 1))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{one}" for one in characters)]
    pieces += sorted(counts, key=lambda piece: (-counts[piece], piece))[: 300 - len(pieces)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(pieces[:5])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def toy_bert(vocab_size, seed=0, **settings):
    """A BERT of two layers and width 32 with random weights."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=132, **settings,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertModel(config, add_pooling_layer=False).eval()


def write_hub_folder(folder, **settings):
    """A toy BERT in the hub's own layout: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True)
    toy_bert(write_wordpiece(folder), **settings).save_pretrained(folder)
    return folder


def transformer_model(folder, seed=0):
    """A classifier over a toy BERT, its tokenizer in `folder`, with logits large enough to decide something."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = toy_bert(write_wordpiece(folder), seed)
    spec = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=0)
    backbone = Backbone("bert", Transformer(encoder), 32, encoder.config.to_dict(), spec, 132)
    return _spread(new_classifier(backbone, TASKS, MAX_LENGTH, seed), seed)


def convolutional_model(folder, seed=0):
    """A classifier over a small encoder of the embedded encoder's kind, its tokenizer in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = UseConfig(
        vocab_size=write_wordpiece(folder), embedding_width=24, branch_width=16, sentence_width=32, dense_width=24
    )
    spec = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = use_backbone(UseMultilingual(config), spec)
    return _spread(new_classifier(backbone, TASKS, MAX_LENGTH, seed), seed)


def toy_ids(vocab_size, shape, seed=0):
    """Random token ids and a mask whose rows end at random places: both int64 [batch, seq]."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, vocab_size, shape)
    lengths = generator.integers(1, shape[1] + 1, shape[0])
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
    return np.where(mask == 1, ids, 0), mask


def toy_recipe(**changes):
    """The recipe of the toy run as plain values; `changes` replace its top-level keys."""
    fit = {"epochs": 2, "learning_rate": 2e-3, "batch": {"documents_per_step": 12}, "checkpoint_minutes": 0.0}
    return {
        "name": "toy",
        "data": {
            "path": "toy.csv", "id": "id", "split": "split", "tasks": TASK_BLOCK, "max_length": MAX_LENGTH,
        },
        "teacher": {"backbone": "toy-bert", "fit": fit},
        "students": [{
            "name": "small", "fit": fit,
            "init": {
                "kind": "convolutional", "embedding_width": 16, "branch_width": 8, "sentence_width": 16,
                "dense_width": 16,
            },
        }],
        "compress": [
            {"kind": "trim_vocabulary", "coverage": 1.0},
            {
                "kind": "int8_qat", "calibration": {"documents": 16},
                "fit": {**fit, "epochs": 1, "learning_rate": 1e-4},
            },
        ],
        "export": [{"kind": "onnxruntime"}, {"kind": "openvino", "bf16": True}],
        "measure": {
            "baseline": "toy-bert", "memory": False,
            "speed": {
                "shapes": [[2, 8]], "rounds": 1, "round_seconds": 0.0, "baseline_rounds": 1, "documents": 12,
                "padded_documents": 2, "single_texts": 2, "batch_sizes": [2],
            },
        },
        **changes,
    }  # fmt: skip


def write_toy_project(folder, **changes):
    """Data, backbone and `toy.yaml` in one folder; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "toy-bert").exists():
        write_hub_folder(folder / "toy-bert")
    write_toy_data(folder / "toy.csv")
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(toy_recipe(**changes), sort_keys=False), encoding="utf8")
    return path


@dataclass(frozen=True)
class ToyRun:
    """A finished toy run: `plan` was made before it, `before` are the digests of every file it left."""

    project: Path
    recipe: Path
    out: Path
    plan: Plan
    report: Report
    said: str
    before: dict[str, str]


def run_toy_project(project):
    """`polyfold run` on the toy project, in this process, with all it printed."""
    recipe = write_toy_project(project)
    chart = plan(load_recipe(recipe), project)
    out = project / "out"
    result = CliRunner().invoke(app, ["run", str(recipe), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return ToyRun(project, recipe, out, chart, load_report(out), result.output, digests(out))


def quality(report):
    """Every row's figures that do not depend on the clock, by row name."""
    kept = ("macro_f1", "macro_f1_ci95", "f1_by_label", "calibration_error", "label_agreement_percent",
            "degradation_percent", "thresholds", "temperatures", "confusion")  # fmt: skip
    rows = json.loads(report.model_dump_json())["rows"]
    return {row["name"]: {key: row.get(key) for key in kept} for row in rows}


def digests(folder):
    """Every file below a folder with its SHA-256."""
    return {str(path.relative_to(folder)): digest_file(path) for path in folder.rglob("*") if path.is_file()}


def _spread(model, seed):
    """Heads with larger weights: fresh ones give logits so small that rounding decides the labels."""
    generator = torch.Generator().manual_seed(seed)
    for head in model.classifier.heads.values():
        with torch.no_grad():
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
    model.classifier.eval()
    return model


def toy_samples(model, seed=0, count=4):
    """Calibration batches of random ids."""
    vocab = token_embedding(model.classifier.encoder).num_embeddings
    drawn = [toy_ids(vocab, (8, 12), seed + number) for number in range(count)]
    return [(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in drawn]


def quantized_toy(model, seed=0, keep=(), **settings):
    """The model with fake quantizers, ranges from random ids: post-training int8."""
    return replace(
        model, classifier=prepare_grids(model.classifier, toy_samples(model, seed), **settings).quantized(keep)
    )


def write_exports(folder, model, source):
    """The model as a torch folder and in both runtimes: folders by runtime."""
    save_model(model, folder / "torch", source)
    for spec in (OnnxRuntimeExport(), OpenVinoExport()):
        export(spec, model, source, folder / spec.kind)
    return {runtime: folder / runtime for runtime in ("torch", "onnxruntime", "openvino")}
