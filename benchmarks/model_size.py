"""How large MiniLM-L6 is on disk with a vocabulary of twelve languages, in each form that it is exported in.

    python benchmarks/model_size.py --data ../shared/data --tokenizers ../shared/tokenizers \\
        --out docs/results/compression

Builds mMiniLMv2-L6-H384's shape (6 layers, 384 wide, 12 heads, 1536 in the feed-forward layers) with random
weights over XLM-R's true 250,002 pieces, trims it to each of SIZES pieces counted on the train texts of
DATA/feedback.parquet in twelve languages, quantizes it and exports it to ONNX. A size is that of the whole folder:
graph, tokenizer and configuration. Weights decide nothing here, so nothing is scored. Writes OUT/model_size.json.
Takes three minutes and 4 GB of memory.
"""

import argparse
import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from polyfold.artifact import write_atomically
from polyfold.compress.grids import Mode, prepare_grids
from polyfold.errors import InputError
from polyfold.export import OnnxRuntimeExport, export
from polyfold.model.backbone import Backbone, Transformer
from polyfold.model.classifier import Model, new_classifier
from polyfold.model.trimming import TrimVocabulary, trim
from polyfold.model.vocabulary import Text
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec

LANGUAGES = ("ar", "de", "en", "es", "fr", "ja", "ko", "nl", "pt", "ru", "tr", "zh")
GOAL_MB = 30.0
TASKS = (
    Task(name="domain", labels=tuple(f"domain {number}" for number in range(6))),
    Task(name="sentiment", labels=("positive", "negative", "neutral", "mixed")),
    Task(name="topics", kind="multi_label", labels=tuple(f"topic {number}" for number in range(9))),
)
FORMS: dict[str, tuple[Mode | None, OnnxRuntimeExport]] = {
    "fp32": (None, OnnxRuntimeExport()),
    "fp32, int8 embeddings": (None, OnnxRuntimeExport(embeddings="int8")),
    "fp16, int8 embeddings": (None, OnnxRuntimeExport(precision="fp16", embeddings="int8")),
    "int8 static": ("static", OnnxRuntimeExport()),
    "int8 dynamic": ("dynamic", OnnxRuntimeExport()),
    "int8 weights": ("weight_only", OnnxRuntimeExport()),
}


def main(arguments: Sequence[str]) -> None:
    """Measure every form at every size, print and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[35_000, 40_000, 45_000])
    parser.add_argument("--texts", type=int, default=None, help="count pieces on so many texts only")
    options = parser.parse_args(arguments)
    table = {}
    for size in options.sizes:
        with TemporaryDirectory() as scratch:
            model, folder = trimmed_model(options, size, Path(scratch))
            table[str(size)] = sizes_mb(model, folder, Path(scratch))
        for form, parts in table[str(size)].items():
            print(f"{size:,} pieces, {form}: {parts['total']:.2f} MB {parts}", flush=True)
    smallest = {size: min(form["total"] for form in forms.values()) for size, forms in table.items()}
    goal = {size: "met" if total <= GOAL_MB else "missed" for size, total in smallest.items()}
    content = {"goal_mb": GOAL_MB, "goal": goal, "size_mb": table}
    write_atomically(options.out / "model_size.json", json.dumps(content, indent=2).encode())


def trimmed_model(options: argparse.Namespace, size: int, scratch: Path) -> tuple[Model, Path]:
    """The shape over XLM-R's pieces, cut to `size`; its tokenizer lies in the folder that is returned."""
    source, target = scratch / "xlm-roberta", scratch / "trimmed"
    source.mkdir()
    target.mkdir()
    packed = options.tokenizers / "xlm-roberta.json.gz"
    (source / "tokenizer.json").write_bytes(gzip.decompress(packed.read_bytes()))
    config = XLMRobertaConfig(
        vocab_size=250_002, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536,
        max_position_embeddings=514, type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = Transformer(XLMRobertaModel(config, add_pooling_layer=False).eval())
    spec = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)
    backbone = Backbone("xlm-roberta", encoder, 384, config.to_dict(), spec, 512, "random")
    texts = list(train_texts(options.data / "feedback.parquet", options.texts))
    wanted = TrimVocabulary(coverage=1.0, size=size)
    trimmed = trim(wanted, backbone, source, target, texts, texts[:1000]).backbone
    return new_classifier(trimmed, TASKS, 128, 0), target


def train_texts(path: Path, limit: int | None) -> Iterator[Text]:
    """(language, text) of the training split in the twelve languages."""
    if not path.is_file():
        raise InputError("the benchmark's data are not here", file=path)
    rows = pq.read_table(path, columns=["text", "lang", "split"], filters=[("split", "=", "train")]).to_pylist()
    chosen = [(row["lang"], row["text"]) for row in rows if row["lang"] in LANGUAGES]
    yield from chosen if limit is None else chosen[:: max(1, len(chosen) // limit)]


def sizes_mb(model: Model, source: Path, scratch: Path) -> dict[str, dict[str, float]]:
    """Megabytes (1e6 bytes) of the graph, of the tokenizer and of all, by form."""
    ids = torch.randint(3, 1000, (8, 32), generator=torch.Generator().manual_seed(0))
    samples = [(ids, torch.ones_like(ids))]
    found = {}
    for number, (form, (mode, spec)) in enumerate(FORMS.items()):
        made = model
        if mode is not None:
            made = replace(model, classifier=prepare_grids(model.classifier, samples, mode).quantized())
        folder = scratch / f"form-{number}"
        export(spec, made, source, folder)
        files = {path.suffix: path.stat().st_size / 1e6 for path in folder.rglob("*") if path.is_file()}
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
        tokenizer = (folder / "tokenizer.json").stat().st_size / 1e6
        parts = {"total": total, "graph": files[".onnx"], "tokenizer": tokenizer}
        found[form] = {name: round(value, 3) for name, value in parts.items()}
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
