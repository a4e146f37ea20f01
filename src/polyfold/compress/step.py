"""Every compression step by its kind, and how one runs as a stage."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from polyfold.artifact import Artifact
from polyfold.compress.bench import Bench
from polyfold.compress.int8_ptq import Int8Ptq, int8_ptq
from polyfold.compress.int8_qat import Int8Qat, int8_qat
from polyfold.compress.prune import prune
from polyfold.compress.prune_spec import Prune
from polyfold.compress.trim_vocabulary import trim_vocabulary
from polyfold.data.dataset import Dataset
from polyfold.model.classifier import load_model, save_model
from polyfold.model.trimming import TrimVocabulary
from polyfold.train.evaluate import calibrated
from polyfold.train.teachers import Teach

STAGE_VERSION = 5

StepSpec = Annotated[TrimVocabulary | Prune | Int8Qat | Int8Ptq, Field(discriminator="kind")]


def compress(
    spec: StepSpec,
    source: Artifact,
    data: Dataset,
    folder: Path,
    seed: int,
    teach: Teach | None,
    base: Path = Path(),
) -> dict[str, Any]:
    """Apply one step to the model in `source`, calibrate the result on dev and save it in `folder`.

    Relative paths in the spec start at `base`. Returns what the step says of itself. Temperatures and thresholds
    are fitted again: a compressed model is another model.
    """
    model = load_model(source.path)
    bench = Bench(data, source.path, folder, seed, folder.name.rpartition("-")[0], teach, base)
    tokenizer = model.backbone.tokenizer.file
    shutil.copyfile(source.path / tokenizer, folder / tokenizer)
    match spec:
        case TrimVocabulary():
            result, told = trim_vocabulary(spec, model, bench)
        case Prune():
            result, told = prune(spec, model, bench)
        case Int8Qat():
            result, told = int8_qat(spec, model, bench)
        case Int8Ptq():
            result, told = int8_ptq(spec, model, bench)
    after = replace(bench, source=folder)
    dev = after.encode(result, data.dev)
    save_model(calibrated(result, dev, bench.label), folder, folder)
    return told


def step_files(spec: StepSpec, base: Path) -> dict[str, str]:
    """SHA-256 of every file of the user's that a step reads; InputError where one is missing."""
    return spec.files(base) if isinstance(spec, TrimVocabulary) else {}


def quantizes(spec: StepSpec) -> bool:
    """Whether what comes out of a step can no longer be cut, trained or given to transformers."""
    return isinstance(spec, Int8Qat | Int8Ptq)


def model_precision(artifact: Artifact) -> str:
    """The precision the model in this folder computes in."""
    return artifact.config()[0].precision
