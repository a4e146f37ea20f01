"""What training_speed.py times: one model over one set of documents, trained by Polyfold and by the Trainer.

Every way starts from the same weights and takes as many documents a step, in the same precision, with AdamW,
clipping and dropout on. Labels are random, a quarter of them missing, and so are the cached logits: timing only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from polyfold.data.batches import BatchSpec, EncodedDocuments, encode, plan_epoch
from polyfold.data.dataset import Documents
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.backbone import Backbone, rebuild
from polyfold.model.classifier import Classifier, Model, new_classifier
from polyfold.model.first_token import cut
from polyfold.model.use_multilingual import copy_tokenizer
from polyfold.tasks import NOT_LABELLED, Task
from polyfold.text import Encoding, TokenizerSpec, open_tokenizer
from polyfold.train.answers import Answer
from polyfold.train.cache import open_cache
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.objectives import TaskObjective
from polyfold.train.teachers import ModelTeacher, Teacher

TASKS = (
    Task(name="domain", labels=tuple(f"domain {number}" for number in range(6))),
    Task(name="sentiment", labels=("mixed", "negative", "neutral", "positive")),
    Task(name="topics", kind="multi_label", labels=tuple(f"topic {number}" for number in range(9))),
)
TABLE_ROWS = 20_000
"""As many pieces as a trimmed vocabulary keeps: AdamW goes over all of them at every step."""

GROUPED_BATCHES = 200
"""The Trainer's grouping is at its best from so many batches on: four times fifty."""

MISSING = 0.25
MAX_LENGTH = 128
SEED = 0

LABELS, CACHED, ONLINE = "labels", "cached teacher", "online teacher"
TRAINER, GROUPED = "Trainer", "Trainer, grouped by length"
TRAINERS = (TRAINER, GROUPED)
WAYS = (LABELS, CACHED, ONLINE, *TRAINERS)


@dataclass(frozen=True)
class Shape:
    """A BERT of so many layers; its teacher has twice as many, and logits alone are taken from it."""

    layers: int
    width: int
    heads: int

    @property
    def name(self) -> str:
        """As the results call it."""
        return f"{self.layers}x{self.width}"

    def configuration(self, layers: int) -> dict[str, Any]:
        """For transformers, with the dropout that the family has by default."""
        return {
            "model_type": "bert", "vocab_size": TABLE_ROWS, "hidden_size": self.width, "num_hidden_layers": layers,
            "num_attention_heads": self.heads, "intermediate_size": 4 * self.width, "type_vocab_size": 1,
            "max_position_embeddings": MAX_LENGTH, "pad_token_id": 0,
        }  # fmt: skip

    def model(self, layers: int | None = None) -> Model:
        """With random weights, the same at each call."""
        settings = self.configuration(layers or self.layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            module = rebuild("bert", settings)
        tokenizer = TokenizerSpec(kind="sentencepiece", file="tokenizer.none", pad_id=0)
        backbone = Backbone("bert", module, self.width, settings, tokenizer, MAX_LENGTH, "random")
        return new_classifier(backbone, TASKS, MAX_LENGTH, SEED)


SHAPES: Mapping[str, Shape] = {one.name: one for one in (Shape(6, 384, 12), Shape(3, 256, 4), Shape(2, 64, 2))}


@dataclass(frozen=True)
class Setting:
    """One model in one precision, and the documents: those of every way but one, and those grouped by length."""

    shape: Shape
    precision: str
    data: EncodedDocuments
    grouped: EncodedDocuments
    documents_per_step: int

    @property
    def name(self) -> str:
        """As the results call it."""
        return f"{self.shape.name} {self.precision}"


def read_texts(data: Path, demo: Path, least: int, most: int) -> tuple[list[str], str]:
    """Distinct training texts, drawn evenly over the file: `most` if there are as many; and which file that is."""
    path = data / "feedback.parquet"
    if path.is_file():
        texts = pq.read_table(path, columns=["text"], filters=[("split", "=", "train")])["text"].to_pylist()
    else:
        path = demo
        options = pa_csv.ParseOptions(newlines_in_values=True)
        texts = pa_csv.read_csv(path, parse_options=options)["text"].to_pylist()
    distinct = list(dict.fromkeys(texts))
    if len(distinct) < least:
        told = f"there are {len(distinct)} distinct texts, not {least}"
        raise InputError(told, file=path, hint="give fewer --steps")
    places = np.linspace(0, len(distinct) - 1, min(most, len(distinct))).astype(int)
    return [distinct[place] for place in places], path.name


def length_grouped(data: EncodedDocuments, documents_per_step: int, steps: int) -> EncodedDocuments:
    """So many of the batches that the Trainer's own grouping makes of all these documents, one after the other.

    It sorts by length within fifty batches, and hardly at all where there are few: a short epoch would show
    no long one has. Evenly spread over its batches, these are as long as the documents of all.
    """
    from transformers.trainer_pt_utils import get_length_grouped_indices

    generator = torch.Generator().manual_seed(SEED)
    order = get_length_grouped_indices(data.encoding.lengths.tolist(), documents_per_step, generator=generator)
    count = len(order) // documents_per_step
    full = np.asarray(order[: count * documents_per_step]).reshape(count, documents_per_step)
    ranked = full[np.argsort(data.encoding.lengths[full].sum(axis=1), kind="stable")]
    rows = ranked[((np.arange(steps) + 0.5) * count / steps).astype(int)].ravel()
    return EncodedDocuments(data.documents.take(rows), data.encoding.take(rows), data.pad_id)


def setting_of(
    shape: Shape, precision: str, whole: EncodedDocuments, documents_per_step: int, steps: int
) -> Setting:
    """A setting of so many steps out of `whole`, drawn evenly over it."""
    rows = np.linspace(0, len(whole) - 1, steps * documents_per_step).astype(int)
    data = EncodedDocuments(whole.documents.take(rows), whole.encoding.take(rows), whole.pad_id)
    grouped = length_grouped(whole, documents_per_step, steps)
    return Setting(shape, precision, data, grouped, documents_per_step)


def encoded(texts: list[str]) -> EncodedDocuments:
    """Cut by the embedded encoder's tokenizer, whose ids are folded into the model's table; labels at random."""
    rng = np.random.default_rng(SEED)
    count = len(texts)
    labels = {}
    for task in TASKS:
        values = (
            (rng.random((count, len(task.labels))) < 0.2).astype(np.int8)
            if task.multi_label
            else rng.integers(0, len(task.labels), count)
        )
        values[rng.random(count) < MISSING] = NOT_LABELLED
        labels[task.name] = values
    names = [str(number) for number in range(count)]
    documents = Documents(names, texts, ["en"] * count, names, labels)
    with TemporaryDirectory() as folder:
        tokenizer = open_tokenizer(Path(folder), copy_tokenizer(Path(folder)))
        cut_up = encode(documents, tokenizer, MAX_LENGTH)
    # From 1 on: 0 is the padding.
    ids = 1 + cut_up.encoding.flat % (TABLE_ROWS - 1)
    return EncodedDocuments(documents, Encoding(ids, cut_up.encoding.offsets, cut_up.encoding.truncated), 0)


def run(way: str, setting: Setting, cache: Path) -> float:
    """Seconds of an epoch: steps alone, without building, scoring and saving.

    Where documents are grouped they are others, of about the same lengths: for as many tokens as the rest have.
    """
    if way == GROUPED:
        tokens = [int(data.encoding.offsets[-1]) for data in (setting.data, setting.grouped)]
        return trainer_epoch(setting, grouped=True) * tokens[0] / tokens[1]
    if way == TRAINER:
        return trainer_epoch(setting, grouped=False)
    return polyfold_epoch(setting, teacher_of(way, setting, cache))


def teacher_of(way: str, setting: Setting, cache: Path) -> Teacher | None:
    """The teacher of a way, ready before the clock starts."""
    if way == LABELS:
        return None
    if way == ONLINE:
        return ModelTeacher(setting.shape.model(2 * setting.shape.layers), setting.data)
    count = len(setting.data)
    generator = torch.Generator().manual_seed(SEED)
    every = torch.ones(count)
    return open_cache(
        cache,
        f"{count:016d}",
        lambda: {
            task.name: Answer(torch.randn(count, len(task.labels), generator=generator), every > 0, every)
            for task in TASKS
        },
    )


def polyfold_epoch(setting: Setting, teacher: Teacher | None) -> float:
    """`fit` as every stage calls it: planning and building the optimizer count, too."""
    model = setting.shape.model()
    losses = (LabelLoss(),) if teacher is None else (LabelLoss(), LogitLoss())
    objective = TaskObjective(TASKS, losses, setting.data.documents, teacher)
    spec = FitSpec.model_validate(
        {
            "epochs": 1,
            "precision": setting.precision,
            "batch": BatchSpec(documents_per_step=setting.documents_per_step),
            "checkpoint_minutes": 1e6,
        }
    )
    ended = []

    def end(_: nn.Module) -> dict[str, float]:
        ended.append(perf_counter())
        return {"domain": 0.0}

    with TemporaryDirectory() as folder:
        started = perf_counter()
        fit(
            model.classifier,
            setting.data,
            objective,
            spec,
            None,
            FitContext(Path(folder), SEED, setting.name, end),
        )
    return ended[0] - started


class Wrapped(nn.Module):
    """The same classifier as transformers expects a model: labels go in by name, a loss comes out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.real = self.padded = 0

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, domain: Tensor, sentiment: Tensor, topics: Tensor
    ) -> dict[str, Tensor]:
        """The mean over all (document, task) pairs, as Polyfold's own."""
        self.real += int(attention_mask.sum())
        self.padded += attention_mask.numel()
        logits = self.classifier(input_ids, attention_mask).logits
        labelled = topics[:, 0] != NOT_LABELLED
        loss = functional.binary_cross_entropy_with_logits(
            logits["topics"][labelled].float(), topics[labelled], reduction="sum"
        )
        for name, labels in (("domain", domain), ("sentiment", sentiment)):
            loss = loss + functional.cross_entropy(
                logits[name].float(), labels, ignore_index=NOT_LABELLED, reduction="sum"
            )
        pairs = labelled.sum() + (domain != NOT_LABELLED).sum() + (sentiment != NOT_LABELLED).sum()
        return {"loss": loss / pairs.clamp(min=1)}


def trainer_epoch(setting: Setting, *, grouped: bool, watch: Callable[[Wrapped], None] | None = None) -> float:
    """An epoch of the Trainer with its defaults, timed from before its first batch to after its last step.

    `grouped` takes the documents in their order, which is that of `length_grouped`.
    """
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    times: list[float] = []

    class Clock(TrainerCallback):
        def on_epoch_begin(self, *_: object, **__: object) -> None:
            times.append(perf_counter())

        def on_epoch_end(self, *_: object, **__: object) -> None:
            times.append(perf_counter())

    model = Wrapped(setting.shape.model().classifier)

    class InOrder(Trainer):
        def get_train_dataloader(self) -> DataLoader[Any]:
            loader = DataLoader(
                self.train_dataset, batch_size=setting.documents_per_step, collate_fn=self.data_collator
            )
            return self.accelerator.prepare(loader)

    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=setting.documents_per_step,
            num_train_epochs=1,
            learning_rate=1e-4,
            weight_decay=0.01,
            bf16=setting.precision == "bf16",
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = (InOrder if grouped else Trainer)(
            model=model,
            args=arguments,
            train_dataset=rows_of(setting.grouped if grouped else setting.data),
            data_collator=DataCollatorWithPadding(padder()),
            callbacks=[Clock()],
        )
        # Its figures go to standard output otherwise.
        trainer.log = lambda *_, **__: None
        trainer.train()
    if watch is not None:
        watch(model)
    return times[1] - times[0]


def rows_of(data: EncodedDocuments) -> list[dict[str, Any]]:
    """A list of examples, as datasets give them."""
    labels = data.documents.labels
    return [
        {
            "input_ids": ids.tolist(),
            "domain": int(labels["domain"][row]),
            "sentiment": int(labels["sentiment"][row]),
            "topics": labels["topics"][row].astype(float).tolist(),
        }
        for row, ids in enumerate(data.encoding.ids)
    ]


def padder() -> Any:
    """A tokenizer that only pads."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def own_padding(setting: Setting) -> float:
    """The share of padding among the tokens that Polyfold's passes compute, over an epoch."""
    spec = BatchSpec(documents_per_step=setting.documents_per_step)
    plan = plan_epoch(setting.data.encoding.lengths, None, spec, SEED, 0, ragged=True)
    masks = [setting.data.batch(batch).attention_mask for step in plan for batch in step]
    real = sum(int(mask.sum()) for mask in masks)
    padded = sum(one.documents * one.width for mask in masks for one in cut(mask))
    return 1 - real / padded


def least_operations(shape: Shape, lengths: np.ndarray) -> float:
    """Operations of forward and backward over these documents, of matrix products with weights alone.

    Six for each multiply-add: two forward, two for the inputs' gradients, two for the weights'. Nothing is counted
    for padding, nor for what of the last layer no head reads.
    """
    square = shape.width**2
    per_token = 12 * square * (shape.layers - 1) + 2 * square
    per_document = 10 * square + shape.width * sum(len(task.labels) for task in TASKS)
    return 6.0 * (per_token * float(np.sum(lengths)) + per_document * len(lengths))
