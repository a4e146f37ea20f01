"""The peers: what each is, where it lives, and what it is given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .merging import Stock

WORKERS = Path(__file__).parent / "workers"

Group = Literal["peer", "polyfold"]
Weights = Literal["shared", "fitted", "own"]
"""`shared`: those of the stock folders, in whatever precision; `fitted`: linear heads trained here on the training
texts; `own`: another model of Polyfold's."""


@dataclass(frozen=True)
class PeerSpec:
    """One peer; `prepared_in` and `prepare_with` where it is prepared elsewhere than it is asked."""

    name: str
    title: str
    environment: str
    script: str
    weights: Weights
    settings: Mapping[str, Any]
    prepares: bool = False
    prepared_in: str | None = None
    prepare_with: str | None = None
    group: Group = "peer"


@dataclass(frozen=True)
class Given:
    """A folder of Polyfold's, named by the user; `shared` where it holds the weights of the stock folders."""

    name: str
    folder: Path
    bf16: bool
    shared: bool


@dataclass(frozen=True)
class Recipe:
    """What peers are fitted with: widths, buckets, calibration texts."""

    static_width: int = 256
    longest: int = 4
    buckets: int = 2**20
    calibration: int = 300


REFERENCE = "transformers-per-task"
"""The row that agreement of the same weights is counted against: fp32, stock code."""


def catalogue(stock: Stock, merged: Path, given: Sequence[Given], recipe: Recipe) -> list[PeerSpec]:
    """Every peer, in the order of the table."""
    return [
        PeerSpec(
            REFERENCE,
            f"transformers pipelines, fp32: {len(stock.tasks)} models, one a task",
            "transformers",
            "transformers_pipeline.py",
            "shared",
            {"folders": {name: str(folder) for name, folder in stock.folders.items()}},
        ),
        PeerSpec(
            "transformers-one",
            "transformers pipeline, fp32: one model for all tasks",
            "transformers",
            "transformers_pipeline.py",
            "shared",
            {"folder": str(merged)},
        ),
        _onnx(stock, merged, int8=False),
        _onnx(stock, merged, int8=True),
        PeerSpec(
            "sentence-transformers-int8",
            "sentence-transformers, OpenVINO static int8, linear heads",
            "sentence-transformers",
            "sentence_transformers_openvino.py",
            "shared",
            {"folder": str(merged), "heads": str(merged / "heads.npz"), "calibration": recipe.calibration},
            prepares=True,
        ),
        PeerSpec(
            "static-embeddings",
            f"model2vec static embeddings of width {recipe.static_width}, linear heads",
            "model2vec",
            "static_embeddings.py",
            "fitted",
            {"folder": str(merged), "width": recipe.static_width},
            prepares=True,
        ),
        PeerSpec(
            "hashed-ngrams",
            f"hashed character 1-{recipe.longest}-grams, linear",
            "scikit-learn",
            "hashed_ngrams.py",
            "fitted",
            {"buckets": recipe.buckets, "longest": recipe.longest},
            prepares=True,
        ),
        *(_polyfold(one) for one in given),
    ]


def _onnx(stock: Stock, merged: Path, int8: bool) -> PeerSpec:
    return PeerSpec(
        "onnxruntime-int8" if int8 else "onnxruntime-fp32",
        f"ONNX Runtime, {'dynamic int8' if int8 else 'fp32'}, straight from an export",
        "onnxruntime",
        "onnxruntime_export.py",
        "shared",
        {
            "folder": str(merged),
            "int8": int8,
            "file": "model_int8.onnx" if int8 else "model.onnx",
            "pad_id": stock.pad_id,
            "pad_token": stock.pad_token,
            "max_length": stock.max_length,
        },
        prepares=True,
        prepared_in="export",
        prepare_with="export_onnx.py",
    )


def _polyfold(given: Given) -> PeerSpec:
    return PeerSpec(
        given.name,
        f"Polyfold: {given.name}{' with bf16' if given.bf16 else ''}",
        "polyfold",
        "polyfold_predictor.py",
        "shared" if given.shared else "own",
        {"folder": str(given.folder.resolve()), "bf16": given.bf16},
        group="polyfold",
    )
