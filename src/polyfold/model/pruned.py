"""Encoders whose layers differ in size: what a transformers family becomes when its configuration cannot say it.

Each class is its family's own with other matrices, so its forward pass, attention kernels and state-dict keys are
the family's. `register` makes `AutoConfig` and `AutoModel` know them; loading one needs that call, as no remote
code is involved. Heads may differ from layer to layer because the families fold whatever width the projections
have into heads of one size.
"""

from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from polyfold.errors import InputError
from polyfold.model.factorized import FactorizedEmbedding
from polyfold.model.layout import PREFIX, Sizes, layers_of, layout_of, linear_of, table_of


class PrunedBertConfig(BertConfig):
    """BERT with a number of heads and of feed-forward neurons for each layer."""

    model_type = f"{PREFIX}bert"
    layer_heads: list[int] | None = None
    layer_feed_forward: list[int] | None = None
    head_size: int | None = None
    embedding_rank: int | None = None


class PrunedRobertaConfig(RobertaConfig):
    """RoBERTa with a number of heads and of feed-forward neurons for each layer."""

    model_type = f"{PREFIX}roberta"
    layer_heads: list[int] | None = None
    layer_feed_forward: list[int] | None = None
    head_size: int | None = None
    embedding_rank: int | None = None


class PrunedXLMRobertaConfig(XLMRobertaConfig):
    """XLM-RoBERTa with a number of heads and of feed-forward neurons for each layer."""

    model_type = f"{PREFIX}xlm-roberta"
    layer_heads: list[int] | None = None
    layer_feed_forward: list[int] | None = None
    head_size: int | None = None
    embedding_rank: int | None = None


class PrunedDistilBertConfig(DistilBertConfig):
    """DistilBERT with a number of heads and of feed-forward neurons for each layer."""

    model_type = f"{PREFIX}distilbert"
    layer_heads: list[int] | None = None
    layer_feed_forward: list[int] | None = None
    head_size: int | None = None
    embedding_rank: int | None = None


class PrunedModernBertConfig(ModernBertConfig):
    """ModernBERT with sizes for each layer; `entry_norm` where its first layer, which has no such norm, is gone.

    `head_dim` is the name under which the rotary embedding looks for the width of a head.
    """

    model_type = f"{PREFIX}modernbert"
    layer_heads: list[int] | None = None
    layer_feed_forward: list[int] | None = None
    head_size: int | None = None
    embedding_rank: int | None = None
    entry_norm: bool = False
    head_dim: int | None = None


PrunedConfig = (
    PrunedBertConfig
    | PrunedRobertaConfig
    | PrunedXLMRobertaConfig
    | PrunedDistilBertConfig
    | PrunedModernBertConfig
)

FIELDS = ("layer_heads", "layer_feed_forward", "head_size", "embedding_rank", "entry_norm", "head_dim")
"""What the pruned configurations have beyond their families'."""


class PrunedBert(BertModel):
    """The encoder of a `PrunedBertConfig`; it has no pooling layer, whatever is asked for."""

    config: PrunedBertConfig

    def __init__(self, config: PrunedBertConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config, add_pooling_layer=False)
        _fit_modules(self, config)


class PrunedRoberta(RobertaModel):
    """The encoder of a `PrunedRobertaConfig`; it has no pooling layer, whatever is asked for."""

    config: PrunedRobertaConfig

    def __init__(self, config: PrunedRobertaConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config, add_pooling_layer=False)
        _fit_modules(self, config)


class PrunedXLMRoberta(XLMRobertaModel):
    """The encoder of a `PrunedXLMRobertaConfig`; it has no pooling layer, whatever is asked for."""

    config: PrunedXLMRobertaConfig

    def __init__(self, config: PrunedXLMRobertaConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config, add_pooling_layer=False)
        _fit_modules(self, config)


class PrunedDistilBert(DistilBertModel):
    """The encoder of a `PrunedDistilBertConfig`."""

    config: PrunedDistilBertConfig

    def __init__(self, config: PrunedDistilBertConfig) -> None:
        super().__init__(config)
        _fit_modules(self, config)


class PrunedModernBert(ModernBertModel):
    """The encoder of a `PrunedModernBertConfig`."""

    config: PrunedModernBertConfig

    def __init__(self, config: PrunedModernBertConfig) -> None:
        super().__init__(config)
        _fit_modules(self, config)
        if config.entry_norm:
            norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
            self.set_submodule("layers.0.attn_norm", norm)


def register() -> None:
    """Make `AutoConfig` and `AutoModel` know the pruned families; calling it again changes nothing."""
    pairs = (
        (PrunedBertConfig, PrunedBert),
        (PrunedRobertaConfig, PrunedRoberta),
        (PrunedXLMRobertaConfig, PrunedXLMRoberta),
        (PrunedDistilBertConfig, PrunedDistilBert),
        (PrunedModernBertConfig, PrunedModernBert),
    )
    for config, model in pairs:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)


def _fit_modules(encoder: nn.Module, config: PrunedConfig) -> None:
    """Give the family's modules, built at the greatest sizes, the matrices of the configuration's own sizes."""
    layout = layout_of(config.model_type)
    sizes = _sizes(config)
    for index, layer in enumerate(layers_of(encoder, layout)):
        for path, (out, into) in layout.linears.items():
            bias = linear_of(layer, path).bias is not None
            layer.set_submodule(path, nn.Linear(sizes.along(into, index), sizes.along(out, index), bias=bias))
        attention = layer.get_submodule(layout.attention)
        setattr(attention, layout.head_size, sizes.head_size)
        # ModernBERT derives the scale from the head's width as it runs; the others keep it.
        setattr(attention, "scaling", sizes.head_size**-0.5)  # noqa: B010
    if sizes.rank is not None:
        table = table_of(encoder, layout)
        narrow = FactorizedEmbedding(table.num_embeddings, sizes.rank, sizes.width, table.padding_idx)
        encoder.set_submodule(layout.tokens, narrow)


def _sizes(config: PrunedConfig) -> Sizes:
    if config.layer_heads is None or config.layer_feed_forward is None or config.head_size is None:
        raise InputError(
            f"the configuration of a '{config.model_type}' encoder lacks its sizes",
            hint="it needs layer_heads, layer_feed_forward and head_size, as Polyfold's pruning writes them",
        )
    if not len(config.layer_heads) == len(config.layer_feed_forward) == config.num_hidden_layers:
        raise InputError(
            f"{len(config.layer_heads)} layer_heads and {len(config.layer_feed_forward)} layer_feed_forward for "
            f"{config.num_hidden_layers} layers"
        )
    return Sizes(
        width=config.hidden_size,
        head_size=config.head_size,
        heads=tuple(config.layer_heads),
        feed_forward=tuple(config.layer_feed_forward),
        rank=config.embedding_rank,
    )
