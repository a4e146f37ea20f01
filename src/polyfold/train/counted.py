"""The texts that a vocabulary is trimmed on: the run's own, and a corpus beside them."""

from collections.abc import Iterator
from pathlib import Path

from polyfold.data.dataset import Dataset
from polyfold.model.corpus import read_corpus
from polyfold.model.trimming import TrimVocabulary
from polyfold.model.vocabulary import Text


def counted_texts(spec: TrimVocabulary, data: Dataset, base: Path) -> Iterator[Text]:
    """Training texts, unlabelled ones and the corpus's, each with its language; nothing of dev or test."""
    yield from zip(data.train.languages, data.train.texts, strict=True)
    if spec.unlabelled:
        yield from zip(data.unlabelled.languages, data.unlabelled.texts, strict=True)
    if spec.corpus is not None:
        yield from read_corpus(spec.corpus, base)


def dev_texts(data: Dataset) -> Iterator[Text]:
    """The texts that tell what trimming did."""
    yield from zip(data.dev.languages, data.dev.texts, strict=True)
