"""BERT-like encoders without padding: documents laid end to end, and only what the heads read in the last layer.

A batch of texts is mostly padding when documents differ in length. Here the tokens of all documents form one
stream [tokens, hidden]; everything but attention works on single tokens anyway, and attention is told where each
document starts. On a GPU torch's variable-length kernel does that in half precision; elsewhere the plain one does,
document by document, which gives the padded model's own logits and is how this file is tested.
"""

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from polyfold.model.backbone import FAMILIES, Transformer
from polyfold.model.classifier import Classifier
from polyfold.model.factorized import FactorizedEmbedding
from polyfold.model.layout import Layout, base_family, layers_of, layout_of, linear_of, sizes_of
from polyfold.model.quantized import is_quantized
from polyfold.model.stock import StockTrunk

PACKED_FAMILIES = ("bert", "roberta", "xlm-roberta")
"""Families whose layers are BERT's; they differ in how they number positions."""

HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Packed:
    """A batch without its padding: document i has tokens `starts[i]` to `starts[i + 1]` of the stream."""

    ids: Int[np.ndarray, "tokens"]
    positions: Int[np.ndarray, "tokens"]
    starts: Int[np.ndarray, "bounds"]
    longest: int

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.starts) - 1

    def flat(self) -> Tensor:
        """All of it in one int32 tensor, so that one copy brings it to a device; `unflat` takes it apart there."""
        return torch.from_numpy(np.concatenate([self.ids, self.positions, self.starts]).astype(np.int32))


def unflat(flat: Int[Tensor, "numbers"], tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of a batch's ids, positions and starts."""
    return flat[:tokens], flat[tokens : 2 * tokens], flat[2 * tokens :]


def pack(input_ids: np.ndarray, attention_mask: np.ndarray, pad_id: int | None) -> Packed:
    """Take the padding out of right-padded int64 [batch, seq]; every document has at least one token.

    With a `pad_id`, positions are RoBERTa's: counted from pad_id + 1 over tokens that are not padding, a padding
    token inside the text getting pad_id itself. Without one they are BERT's: counted from 0.
    """
    kept = attention_mask.astype(bool)
    lengths = kept.sum(axis=1)
    assert lengths.size and lengths.min() > 0, "a document without tokens cannot be packed"
    if pad_id is None:
        positions = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
    else:
        real = input_ids != pad_id
        positions = np.cumsum(real, axis=1) * real + pad_id
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return Packed(input_ids[kept], positions[kept], starts, int(lengths.max()))


@dataclass(frozen=True)
class Bounds:
    """Where documents start in the streams of queries and of keys, and how long the longest is in each."""

    queries: Int[Tensor, "bounds"]
    keys: Int[Tensor, "bounds"]
    longest_query: int
    longest_key: int


Attend = Callable[[Tensor, Tensor, Tensor, Bounds], Tensor]
"""Queries, keys and values [tokens, heads, head_size] to their mixture, of the queries' shape."""


def attend_one_by_one(query: Tensor, key: Tensor, value: Tensor, bounds: Bounds) -> Tensor:
    """Plain attention within each document: right on every device and in every precision, slow for many."""
    mixed = torch.zeros_like(query)
    queries, keys = bounds.queries.tolist(), bounds.keys.tolist()
    for number in range(len(queries) - 1):
        rows, columns = slice(*queries[number : number + 2]), slice(*keys[number : number + 2])
        own_query, own_key, own_value = (
            one.transpose(0, 1).unsqueeze(0) for one in (query[rows], key[columns], value[columns])
        )
        own = functional.scaled_dot_product_attention(own_query, own_key, own_value)
        mixed[rows] = own.squeeze(0).transpose(0, 1)
    return mixed


def attend_at_once(query: Tensor, key: Tensor, value: Tensor, bounds: Bounds) -> Tensor:
    """All documents in one call of torch's variable-length kernel (FlashAttention): a GPU's, bf16 or fp16."""
    from torch.nn.attention.varlen import varlen_attn

    # Only arguments that every version of this young function takes alike.
    found = varlen_attn(query, key, value, bounds.queries, bounds.keys, bounds.longest_query, bounds.longest_key)
    assert isinstance(found, Tensor)
    return found


def can_attend_at_once(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether the variable-length kernel takes this: FlashAttention 2 wants Ampere or newer, heads in eights."""
    if device.type != "cuda" or dtype not in HALF or head_size % 8 or head_size > 256:
        return False
    # A young module of torch's: releases that Polyfold still takes lack it.
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


class PackedLayer(nn.Module):
    """One layer of BERT over a stream of tokens; with `first_only` it answers for each document's first token.

    Queries, keys and values come of one matrix product. Where only first tokens are asked for, their queries are
    computed apart, and all behind attention for them alone: at six layers a seventh of the work falls away.
    """

    def __init__(self, layer: nn.Module, layout: Layout, head_size: int, first_only: bool) -> None:
        super().__init__()
        query, key, value = (linear_of(layer, f"attention.self.{name}") for name in ("query", "key", "value"))
        self.query = joined([query]) if first_only else None
        self.inner = joined([key, value] if first_only else [query, key, value])
        self.mixed = copy.deepcopy(linear_of(layer, layout.heads_out))
        self.up = copy.deepcopy(linear_of(layer, "intermediate.dense"))
        self.down = copy.deepcopy(linear_of(layer, layout.neurons_out))
        self.attention_norm, self.output_norm = (copy.deepcopy(layer.get_submodule(name)) for name in layout.norms)
        self.activation = copy.deepcopy(layer.get_submodule("intermediate.intermediate_act_fn"))
        self.head_size = head_size

    def forward(
        self, states: Float[Tensor, "tokens hidden"], bounds: Bounds, attend: Attend
    ) -> Float[Tensor, "rows hidden"]:
        """The layer's output for every token, or for every document's first."""
        if self.query is None:
            rows = states
            query, key, value = self.inner(states).chunk(3, dim=-1)
        else:
            rows = states.index_select(0, bounds.keys[:-1])
            query = self.query(rows)
            key, value = self.inner(states).chunk(2, dim=-1)
        query, key, value = (one.unflatten(-1, (-1, self.head_size)) for one in (query, key, value))
        mixed = attend(query, key, value, bounds).flatten(1)
        rows = self.attention_norm(self.mixed(mixed) + rows)
        found: Tensor = self.output_norm(self.down(self.activation(self.up(rows))) + rows)
        return found


class PackedClassifier(nn.Module):
    """A classifier over a stream of tokens: the logits of all tasks side by side, in fp32.

    It is a copy: the classifier it was made of may go on being trained.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        assert isinstance(classifier.encoder, Transformer) and can_pack(classifier)
        encoder = classifier.encoder.encoder
        assert isinstance(encoder, nn.Module)
        layout = layout_of(str(encoder.config.model_type))  # type: ignore[union-attr]
        sizes = sizes_of(encoder, layout)
        self.tokens = copy.deepcopy(encoder.get_submodule(layout.tokens))
        positions, kinds = (encoder.get_parameter(f"{name}.weight") for name in layout.other_tables)
        # Every token is of kind 0, so its row is added once and for all.
        self.positions = nn.Embedding.from_pretrained((positions + kinds[0]).detach().clone())
        self.norm = copy.deepcopy(encoder.get_submodule(layout.outer_norms[0]))
        layers = layers_of(encoder, layout)
        self.layers = nn.ModuleList(
            PackedLayer(layer, layout, sizes.head_size, first_only=layer is layers[-1]) for layer in layers
        )
        self.heads = joined([head for head in classifier.heads.values() if isinstance(head, nn.Linear)])
        self.labels = {name: int(head.out_features) for name, head in classifier.heads.items()}  # type: ignore[arg-type]
        self.head_size = sizes.head_size
        self.attend: Attend = attend_one_by_one
        self.eval().requires_grad_(False)

    def forward(
        self,
        ids: Int[Tensor, "tokens"],
        positions: Int[Tensor, "tokens"],
        starts: Int[Tensor, "bounds"],
        longest: int,
    ) -> Float[Tensor, "documents labels"]:
        """Logits of every document; tokens behind the last start belong to no document and change nothing."""
        states = self.norm(self.tokens(ids) + self.positions(positions))
        firsts = torch.arange(len(starts), dtype=starts.dtype, device=starts.device)
        for number, layer in enumerate(self.layers, 1):
            last = number == len(self.layers)
            bounds = Bounds(firsts, starts, 1, longest) if last else Bounds(starts, starts, longest, longest)
            states = layer(states, bounds, self.attend)
        found: Tensor = self.heads(states.float())
        return found

    def cast(self, device: torch.device, dtype: torch.dtype) -> "PackedClassifier":
        """Moved and put into another precision, in place; the heads stay in fp32, which costs nothing."""
        self.to(device=device, dtype=dtype)
        self.heads.float()
        self.attend = attend_at_once if can_attend_at_once(device, dtype, self.head_size) else attend_one_by_one
        return self

    def flops(self, lengths: Sequence[int] | np.ndarray) -> int:
        """Operations of the matrix products for documents of these lengths, a multiply-add counted as two."""
        sizes = np.asarray(lengths, dtype=np.int64)
        tokens, documents, pairs = int(sizes.sum()), len(sizes), int((sizes**2).sum())
        table = self.tokens
        found = tokens * table.projection.weight.numel() if isinstance(table, FactorizedEmbedding) else 0
        for layer in self.layers:
            assert isinstance(layer, PackedLayer)
            rows, scores = (tokens, pairs) if layer.query is None else (documents, tokens)
            found += tokens * layer.inner.weight.numel()
            found += rows * sum(part.weight.numel() for part in (layer.mixed, layer.up, layer.down))
            found += 0 if layer.query is None else rows * layer.query.weight.numel()
            found += 2 * scores * layer.mixed.weight.shape[1]
        return 2 * (found + documents * self.heads.weight.numel())

    def split(self, logits: np.ndarray) -> Mapping[str, np.ndarray]:
        """Logits by task, float32 [documents, labels]."""
        ends = np.cumsum(list(self.labels.values()))[:-1]
        return dict(zip(self.labels, np.split(logits, ends, axis=1), strict=True))


def can_pack(classifier: nn.Module) -> bool:
    """Whether the classifier is one of BERT's kin, in floating point, and read at its first token."""
    if not isinstance(classifier, Classifier) or not isinstance(classifier.encoder, Transformer):
        return False
    encoder = classifier.encoder.encoder
    # A stock classifier's trunk has layers of its own between the first token and the heads.
    if isinstance(encoder, StockTrunk) or is_quantized(classifier):
        return False
    return base_family(str(encoder.config.model_type)) in PACKED_FAMILIES  # type: ignore[union-attr]


def padding_of(classifier: Classifier) -> int | None:
    """The id that RoBERTa's numbering of positions starts from; None where positions are BERT's.

    Read off the module that numbers them: trimming a vocabulary renumbers padding in the configuration at once,
    and in the module when it is loaded again.
    """
    encoder = classifier.encoder.encoder
    family = base_family(str(encoder.config.model_type))  # type: ignore[union-attr]
    if not FAMILIES[family].position_offset:
        return None
    return int(encoder.get_submodule("embeddings").padding_idx)  # type: ignore[arg-type, union-attr]


def joined(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One linear layer whose outputs are those of several over the same input, side by side."""
    first = linears[0]
    whole = nn.Linear(first.in_features, sum(one.out_features for one in linears), device="meta")
    with torch.no_grad():
        whole.weight = nn.Parameter(torch.cat(tuple(one.weight for one in linears)))
        biases = [one.bias if one.bias is not None else one.weight.new_zeros(one.out_features) for one in linears]
        whole.bias = nn.Parameter(torch.cat(tuple(biases)))
    return whole
