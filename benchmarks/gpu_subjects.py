"""What benchmarks/gpu.py times: models of published shapes, ways to run them, workloads, and the device's limits.

Weights are random unless a folder is given: their values decide no speed, and label agreement of random weights is
a harder test than that of trained ones, whose logits lie further apart.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polyfold.errors import InputError
from polyfold.model.backbone import Backbone, Transformer
from polyfold.model.classifier import Model, load_model, new_classifier
from polyfold.model.flops import model_cost
from polyfold.runtimes.low_precision import scaled
from polyfold.runtimes.torch import PackedSession, TorchOptions, TorchSession, torch_session
from polyfold.tasks import Task
from polyfold.text import TokenizerSpec, pad, plan_batches

PAD_ID, FIRST_ID = 1, 4
"""XLM-R's padding, and the first id behind its special tokens."""

TASKS = (
    Task(name="domain", labels=tuple(f"domain {number}" for number in range(6))),
    Task(name="sentiment", labels=("mixed", "negative", "neutral", "positive")),
    Task(name="topics", kind="multi_label", labels=tuple(f"topic {number}" for number in range(9))),
)
SEED = 0
Call = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder of XLM-R's family."""

    layers: int
    width: int
    heads: int
    feed_forward: int
    vocab: int = 250_002
    positions: int = 514


SHAPES: Mapping[str, Shape] = {
    "xlm-r-base": Shape(12, 768, 12, 3072),
    "minilm-l12": Shape(12, 384, 12, 1536),
    "minilm-l6": Shape(6, 384, 12, 1536),
    "toy-base": Shape(4, 64, 4, 128, vocab=512, positions=130),
    "toy-small": Shape(2, 32, 4, 64, vocab=512, positions=130),
}


@dataclass(frozen=True)
class Way:
    """One way to run one shape; the first of all ways is the baseline: padded, fp32, the stock forward pass."""

    shape: str
    options: TorchOptions

    @property
    def name(self) -> str:
        """What its row is called."""
        parts = [self.shape, self.options.precision]
        parts += ["unpadded"] if self.options.unpadded and self.options.precision == "fp32" else []
        parts += ["compiled"] if self.options.compiled else []
        return " ".join(parts)


def gpu_ways(compiled: bool) -> list[Way]:
    """The baseline, XLM-R in bf16, and both MiniLM shapes in bf16, fp8 and int8; with `compiled`, each twice."""
    ways = [Way("xlm-r-base", TorchOptions())]
    for shape, precisions in (
        ("xlm-r-base", ("bf16",)),
        ("minilm-l12", ("bf16", "fp8", "int8")),
        ("minilm-l6", ("bf16", "fp8", "int8")),
    ):
        for precision in precisions:
            for through in (False, True) if compiled else (False,):
                options = {"precision": precision, "unpadded": True, "compiled": through}
                ways.append(Way(shape, TorchOptions.model_validate(options)))
    return ways


def toy_ways() -> list[Way]:
    """What a processor can run of it: the baseline, and an unpadded encoder in fp32."""
    return [Way("toy-base", TorchOptions()), Way("toy-small", TorchOptions(unpadded=True))]


def build(name: str, folder: Path | None) -> Model:
    """A classifier of a known shape with random weights, or the one of a folder, checked to have that shape."""
    from transformers import AutoConfig, AutoModel

    shape = SHAPES[name]
    if folder is not None:
        model = load_model(folder)
        config = model.classifier.encoder.encoder.config  # type: ignore[union-attr]
        found = (config.num_hidden_layers, config.hidden_size, config.intermediate_size)  # type: ignore[union-attr]
        if found != (shape.layers, shape.width, shape.feed_forward):
            raise InputError(f"this model is not of the shape {name}: {found}", file=folder, hint=f"it is {shape}")
        return model
    config = AutoConfig.for_model(
        "xlm-roberta", vocab_size=shape.vocab, hidden_size=shape.width, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.feed_forward, type_vocab_size=1,
        max_position_embeddings=shape.positions, pad_token_id=PAD_ID,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        encoder = AutoModel.from_config(config, add_pooling_layer=False)
    backbone = Backbone(
        family="xlm-roberta",
        module=Transformer(encoder),
        width=shape.width,
        config=config.to_dict(),
        tokenizer=TokenizerSpec(kind="tokenizers", file="tokenizer.none", pad_id=PAD_ID),
        max_length=shape.positions - 2,
        weights="random",
    )
    return new_classifier(backbone, TASKS, 128, SEED)


@dataclass(frozen=True)
class Subject:
    """A way that is loaded: its session, and the model's cost a document when padded."""

    way: Way
    session: Any
    model: Model
    device: str

    def call(self, batch: tuple[np.ndarray, np.ndarray]) -> Call:
        """One pass over a batch that lies on the device already."""
        if isinstance(self.session, PackedSession):
            return self.session.resident(self.session.pack(*batch))
        assert isinstance(self.session, TorchSession)
        ids, mask = (torch.from_numpy(part).to(self.device) for part in batch)
        return lambda: self.session.logits(ids, mask)

    def flops(self, batch: tuple[np.ndarray, np.ndarray]) -> int:
        """Operations of the matrix products that this way does for a batch, padding included where it pads."""
        if isinstance(self.session, PackedSession):
            return self.session.flops(self.session.pack(*batch))
        return model_cost(self.model, *batch[0].shape).flops


def load(way: Way, folder: Path | None, device: str) -> Subject:
    """A way ready to run; InputError where the machine cannot."""
    model = build(way.shape, folder)
    if way.options.precision == "fp32" and not way.options.unpadded:
        # Past `torch_session`, so that it stays what anyone's transformers gives: all positions of all layers.
        session: Any = TorchSession(model.classifier, device)
    else:
        session = torch_session(model.classifier, model.max_length, device, way.options)
    return Subject(way, session, model, device)


def dense(batch: int, width: int, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch without padding: int64 ids and mask [batch, width]."""
    ids = np.random.default_rng(SEED).integers(FIRST_ID, vocab, (batch, width))
    return ids, np.ones_like(ids)


def real(lengths: np.ndarray, vocab: int, token_budget: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Documents of these lengths, sorted and batched under a token budget, as the predictor does."""
    generator = np.random.default_rng(SEED)
    ids = [generator.integers(FIRST_ID, vocab, int(length)) for length in lengths]
    return [pad([ids[row] for row in rows], PAD_ID) for rows in plan_batches(lengths, token_budget)]


def padded(lengths: np.ndarray, vocab: int, batch: int, width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same documents in the order they came, padded to one width."""
    generator = np.random.default_rng(SEED)
    ids = [generator.integers(FIRST_ID, vocab, int(length)) for length in lengths]
    return [pad(ids[start : start + batch], PAD_ID, width) for start in range(0, len(ids), batch)]


def draw_lengths(documents: int, width: int) -> np.ndarray:
    """Token counts as the benchmark's texts have them in XLM-R's pieces: median 20.5, 95th percentile 64."""
    drawn = np.random.default_rng(SEED).lognormal(np.log(20.5), np.log(64 / 20.5) / 1.645, documents)
    return np.clip(drawn.round(), 3, width).astype(np.int64)


def peaks(device: str, side: int, seconds: float) -> dict[str, float]:
    """Measured TFLOP/s of one large square product in each precision; one that the device refuses is left out."""
    generator = torch.Generator().manual_seed(SEED)
    left, right = (torch.randn(side, side, generator=generator).to(device) for _ in range(2))
    products: dict[str, Callable[[], Tensor]] = {"fp32": lambda: left @ right.T}
    if device == "cuda":
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            half_left, half_right = left.to(dtype), right.to(dtype)
            products[name] = lambda one=half_left, other=half_right: one @ other.T  # type: ignore[misc]
    int8_left, int8_right = (scaled(one, "int8")[0] for one in (left, right))
    products["int8"] = lambda: torch._int_mm(int8_left, int8_right.t())
    (fp8_left, left_scale), (fp8_right, right_scale) = (scaled(one, "fp8") for one in (left, right))
    products["fp8"] = lambda: torch._scaled_mm(
        fp8_left, fp8_right.t(), scale_a=left_scale, scale_b=right_scale.t().contiguous(), out_dtype=torch.bfloat16
    )
    found = {}
    for name, product in products.items():
        try:
            product()
        except RuntimeError:
            continue
        found[name] = max(turn(product, seconds, device) for _ in range(3)) * 2 * side**3 / 1e12
    return found


def synchronize(device: str) -> None:
    """Wait until the device has done all it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def turn(call: Call, seconds: float, device: str) -> float:
    """Passes a second: one at least, and more until so many seconds have gone by; the last is waited for."""
    synchronize(device)
    started = time.perf_counter()
    passes = 0
    while True:
        call()
        passes += 1
        if time.perf_counter() - started >= seconds:
            break
    synchronize(device)
    return passes / (time.perf_counter() - started)


def agreement(subject: Subject, folder: Path | None, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    """Percent of (document, task) and (document, label) pairs decided as by the same weights in fp32."""
    reference = TorchSession(build(subject.way.shape, folder).classifier, subject.device)
    same: list[np.ndarray] = []
    tasks = {task.name: task for task in subject.model.tasks}
    for batch in batches:
        expected, found = reference.run(*batch), subject.session.run(*batch)
        for name, task in tasks.items():
            pair = expected[name], found[name]
            left, right = (one > 0 if task.multi_label else one.argmax(axis=1) for one in pair)
            same.append((left == right).ravel())
    return round(100 * float(np.concatenate(same).mean()), 3)
