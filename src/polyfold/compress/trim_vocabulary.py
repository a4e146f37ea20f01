"""The step that cuts a trained model's vocabulary."""

from itertools import chain

from polyfold.compress.bench import Bench
from polyfold.model.backbone import resized
from polyfold.model.classifier import Model
from polyfold.model.trimming import TrimVocabulary, trim


def trim_vocabulary(spec: TrimVocabulary, model: Model, bench: Bench) -> tuple[Model, dict[str, float]]:
    """The model over a smaller table: same logits on every text whose pieces are all kept."""
    texts = chain(bench.data.train.texts, bench.data.unlabelled.texts if spec.unlabelled else ())
    source = (bench.source, model.backbone.tokenizer)
    trimmed = trim(spec, model.classifier.encoder, source, bench.folder, texts, bench.data.dev.texts)
    backbone = resized(model.backbone, trimmed.tokenizer)
    return Model(model.classifier, model.tasks, backbone, model.max_length), trimmed.figures()
