"""Every compression step by its kind, and how one runs as a stage."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from polyfold.artifact import Artifact
from polyfold.compress.bench import Bench
from polyfold.compress.int8_qat import Int8Qat, int8_qat
from polyfold.compress.trim_vocabulary import trim_vocabulary
from polyfold.data.dataset import Dataset, Documents
from polyfold.model.classifier import load_model, save_model
from polyfold.model.trimming import TrimVocabulary
from polyfold.train.evaluate import calibrated
from polyfold.train.teachers import Teacher

STAGE_VERSION = 3

StepSpec = Annotated[TrimVocabulary | Int8Qat, Field(discriminator="kind")]


def compress(
    spec: StepSpec,
    source: Artifact,
    data: Dataset,
    folder: Path,
    seed: int,
    teach: Callable[[Documents], Teacher] | None,
) -> dict[str, Any]:
    """Apply one step to the model in `source`, calibrate the result on dev and save it in `folder`.

    Returns what the step says of itself. Temperatures and thresholds are fitted again: a compressed model is
    another model.
    """
    model = load_model(source.path)
    bench = Bench(data, source.path, folder, seed, folder.name.rpartition("-")[0], teach)
    tokenizer = model.backbone.tokenizer.file
    shutil.copyfile(source.path / tokenizer, folder / tokenizer)
    match spec:
        case TrimVocabulary():
            result, told = trim_vocabulary(spec, model, bench)
        case Int8Qat():
            result, told = int8_qat(spec, model, bench)
    after = replace(bench, source=folder)
    dev = after.encode(result, data.dev)
    precision = "int8" if spec.kind == "int8_qat" else model_precision(source)
    save_model(calibrated(result, dev, bench.label), folder, folder, precision)
    return told


def model_precision(artifact: Artifact) -> str:
    """The precision the model in this folder computes in."""
    return artifact.config()[0].precision
