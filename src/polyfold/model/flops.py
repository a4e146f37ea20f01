"""What a model costs, worked out from its sizes: parameters, and FLOPs of its matrix products.

A multiply-add is two operations, as everybody counts them; norms, activations and softmax are left out, as
`torch.utils.flop_counter` leaves them out. Attention is counted over all pairs of tokens, padding included.
"""

from torch import nn

from polyfold.model import use_multilingual
from polyfold.model.backbone import Transformer
from polyfold.model.classifier import Model, own_parameters
from polyfold.model.layout import Layout, Sizes, count, layout_of, sizes_of
from polyfold.model.stock import StockTrunk, plain_encoder
from polyfold.model.units import Cost


def model_cost(model: Model, batch: int, seq: int) -> Cost:
    """A classifier with its task heads, for a batch of documents of `seq` tokens."""
    encoder = encoder_cost(model.classifier.encoder, batch, seq)
    width = model.backbone.width
    heads = 2 * batch * sum(width * len(task.labels) for task in model.tasks)
    return Cost(encoder.flops + heads, sum(own_parameters(model.classifier).values()))


def encoder_cost(encoder: nn.Module, batch: int, seq: int) -> Cost:
    """A backbone's module (of any family), for a batch of documents of `seq` tokens."""
    if isinstance(encoder, use_multilingual.UseMultilingual):
        flops = convolutional_flops(encoder.config, seq)
        return Cost(batch * flops, sum(own_parameters(encoder).values()))
    assert isinstance(encoder, Transformer)
    inner = encoder.encoder
    assert isinstance(inner, nn.Module)
    plain = plain_encoder(inner)
    layout = layout_of(str(inner.config.model_type))  # type: ignore[union-attr]
    sizes = sizes_of(plain, layout)
    flops = transformer_flops(layout, sizes, frozenset(range(len(sizes.heads))), seq)
    if isinstance(inner, StockTrunk):
        flops += _above(inner, plain.get_submodule(layout.layers))
    return Cost(batch * flops, sum(own_parameters(encoder).values()))


def transformer_cost(encoder: nn.Module, layout: Layout, sizes: Sizes, layers: frozenset[int], seq: int) -> Cost:
    """An encoder as it would be at other sizes and with some of its layers, for one document."""
    return Cost(transformer_flops(layout, sizes, layers, seq), count(layout, encoder, sizes, layers))


def transformer_flops(layout: Layout, sizes: Sizes, layers: frozenset[int], seq: int) -> int:
    """FLOPs of one document: every matrix once a token, and the two products of attention once a pair."""
    multiply_adds = seq * (sizes.rank or 0) * sizes.width
    for layer in layers:
        matrices = layout.linears.values()
        multiply_adds += seq * sum(sizes.along(out, layer) * sizes.along(into, layer) for out, into in matrices)
        multiply_adds += 2 * seq * seq * sizes.heads[layer] * sizes.head_size
    return 2 * multiply_adds


def _above(trunk: StockTrunk, layers: nn.Module) -> int:
    """FLOPs of what a stock classifier has between its layers and its labels: it reads the first token only."""
    inside = set(layers.modules())
    linears = [part for part in trunk.modules() if isinstance(part, nn.Linear) and part not in inside]
    return sum(2 * linear.weight.numel() for linear in linears)


def convolutional_flops(config: use_multilingual.UseConfig, seq: int) -> int:
    """FLOPs of one document in the embedded encoder: the branches a token, the dense layers once."""
    branches = config.branch_sizes
    rank = config.embedding_rank or 0
    token = rank * config.embedding_width + config.embedding_width * sum(branches)
    token += sum(2 * width * width * order for width, (order, _) in zip(branches, config.orders, strict=True))
    mean, inner, second, last = config.dense_sizes
    dense = config.feature_width * mean + mean * inner + mean * second + inner * second
    dense += second * last + second * config.sentence_width + last * config.sentence_width
    return 2 * (seq * token + dense)
