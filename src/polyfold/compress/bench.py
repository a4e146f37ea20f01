"""What a compression step may use: the data, a teacher to imitate, and where to work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from polyfold.data.batches import EncodedDocuments, encode
from polyfold.data.dataset import Dataset, Documents
from polyfold.model.classifier import Model
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import dev_scores
from polyfold.train.teachers import Teach


@dataclass(frozen=True)
class Bench:
    """The work bench of a step: `source` is the folder of the model it was given, `folder` that of its result.

    `teach(documents, wanted)` opens the teacher on those documents, and for losses that look inside it
    (`wanted_of`) shows that too; None where there is no teacher. Relative paths in a step's spec start at `base`.
    """

    data: Dataset
    source: Path
    folder: Path
    seed: int
    label: str
    teach: Teach | None
    base: Path = Path()

    def encode(self, model: Model, documents: Documents) -> EncodedDocuments:
        """Documents as token ids of the given model's tokenizer."""
        tokenizer = open_tokenizer(self.source, model.backbone.tokenizer)
        return encode(documents, tokenizer, model.max_length)

    def evaluate(self, model: Model) -> Callable[[nn.Module], Mapping[str, float]]:
        """Macro-F1 on dev by task, for `fit`'s early stopping."""
        return dev_scores(model.tasks, self.encode(model, self.data.dev), self.label)
