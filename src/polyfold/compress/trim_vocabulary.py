"""The step that cuts a trained model's vocabulary."""

from dataclasses import replace

from polyfold.compress.bench import Bench
from polyfold.model.classifier import Model
from polyfold.model.trimming import TrimVocabulary, trim
from polyfold.train.counted import counted_texts, dev_texts


def trim_vocabulary(spec: TrimVocabulary, model: Model, bench: Bench) -> tuple[Model, dict[str, float]]:
    """The model over a smaller table: same logits on every text whose pieces are all kept."""
    backbone = replace(model.backbone, module=model.classifier.encoder)
    counted = counted_texts(spec, bench.data, bench.base)
    trimmed = trim(spec, backbone, bench.source, bench.folder, counted, dev_texts(bench.data))
    return replace(model, backbone=trimmed.backbone), trimmed.figures()
