"""Where a student comes from: a published backbone, its teacher's weights, or a small encoder built here.

A small encoder keeps its teacher's tokenizer and inherits its token embeddings, projected where the widths
differ: almost all of a small cross-lingual model is its vocabulary, and that part need not be learned again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from polyfold.model.backbone import Backbone, Transformer, embedding_rows, replace_embedding, use_backbone
from polyfold.model.classifier import new_classifier
from polyfold.model.source import open_backbone
from polyfold.model.structure import cut
from polyfold.model.use_multilingual import UseConfig, UseMultilingual
from polyfold.text import TokenizerSpec, open_tokenizer

# Speed is measured on 128 tokens, whatever the texts' own limit: that many positions cost next to nothing.
DENSE_WIDTH = 128


class BackboneInit(BaseModel):
    """An encoder that exists: `use-multilingual`, a hub id, a folder, or one of the recipe's own `backbones`.

    `layers` keeps only these of its layers, counted from 0, as DistilBERT starts from every other layer of BERT.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["backbone"] = "backbone"
    name: str
    layers: tuple[int, ...] | None = Field(default=None, min_length=1)


class TeacherInit(BaseModel):
    """The multi-task teacher's own weights: compressed as it is, the row that every student must beat."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["teacher"] = "teacher"


class TransformerInit(BaseModel):
    """A small transformer: `layers` of `width`, with `heads` attention heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["transformer"] = "transformer"
    layers: int = Field(default=3, ge=1)
    width: int = Field(default=256, ge=8)
    heads: int = Field(default=4, ge=1)
    feed_forward: int | None = Field(default=None, ge=8)

    @model_validator(mode="after")
    def _divisible(self) -> "TransformerInit":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self


class ConvolutionalInit(BaseModel):
    """A narrow encoder of the embedded encoder's kind: n-gram branches over inherited embeddings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["convolutional"] = "convolutional"
    embedding_width: int = Field(default=128, ge=8)
    branch_width: int = Field(default=64, ge=8)
    sentence_width: int = Field(default=256, ge=8)
    dense_width: int = Field(default=160, ge=8)


StudentInit = Annotated[
    BackboneInit | TeacherInit | TransformerInit | ConvolutionalInit, Field(discriminator="kind")
]


def published(init: BackboneInit, folder: Path, base: Path) -> Backbone:
    """An encoder that exists, or some of its layers; its tokenizer goes to `folder`."""
    backbone = open_backbone(init.name, folder, base)
    if init.layers is None:
        return backbone
    whole = new_classifier(backbone, (), backbone.max_length, 0)
    return cut(whole, {("layers", None): np.asarray(init.layers, dtype=np.int64)}).backbone


def build_small(
    init: TransformerInit | ConvolutionalInit, teacher: Backbone, counts: np.ndarray, max_length: int, seed: int
) -> Backbone:
    """A small encoder over the teacher's tokenizer and (projected) embeddings; `counts` [vocab] weigh pieces."""
    table = embedding_rows(teacher.module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = small_encoder(init, teacher.tokenizer, len(table), max_length)
    width = init.embedding_width if isinstance(init, ConvolutionalInit) else init.width
    projected = project_table(table, counts, width)
    # Unit variance: what lies above was initialized for inputs of that size.
    replace_embedding(backbone.module, projected / projected.std(), teacher.tokenizer.pad_id)
    return backbone


def piece_counts(backbone: Backbone, folder: Path, texts: Sequence[str], max_length: int) -> np.ndarray:
    """How often each piece of a vocabulary occurs in texts, int64 [vocab]; its tokenizer is in `folder`."""
    ids = open_tokenizer(folder, backbone.tokenizer).encode(texts, max_length).flat
    return np.bincount(ids, minlength=len(embedding_rows(backbone.module)))


def project_table(
    table: Float[Tensor, "vocab hidden"], counts: np.ndarray, width: int
) -> Float[Tensor, "vocab narrow"]:
    """The table on its `width` leading principal directions, pieces weighed by how often they occur.

    Weighed, because the directions that matter are those of the pieces that texts are made of, and most rows
    of a multilingual vocabulary are rare. A table that is narrow enough already is returned as it is.
    """
    if table.shape[1] <= width:
        return nn.functional.pad(table, (0, width - table.shape[1]))
    weights = torch.from_numpy(counts.astype(np.float64)) + 1.0
    doubled = table.double()
    covariance = (doubled * weights.unsqueeze(1)).T @ doubled / weights.sum()
    _, directions = torch.linalg.eigh(covariance)
    return (doubled @ directions.flip(1)[:, :width]).float()


def small_encoder(
    init: TransformerInit | ConvolutionalInit, tokenizer: TokenizerSpec, vocab: int, max_length: int
) -> Backbone:
    """A small encoder with random weights."""
    match init:
        case ConvolutionalInit():
            return _convolutional(init, tokenizer, vocab)
        case TransformerInit():
            return _transformer(init, tokenizer, vocab, max_length)


def _convolutional(init: ConvolutionalInit, tokenizer: TokenizerSpec, vocab: int) -> Backbone:
    config = UseConfig(
        vocab_size=vocab,
        embedding_width=init.embedding_width,
        branch_width=init.branch_width,
        sentence_width=init.sentence_width,
        dense_width=init.dense_width,
    )
    return use_backbone(UseMultilingual(config), tokenizer)


def _transformer(init: TransformerInit, tokenizer: TokenizerSpec, vocab: int, max_length: int) -> Backbone:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocab,
        hidden_size=init.width,
        num_hidden_layers=init.layers,
        num_attention_heads=init.heads,
        intermediate_size=init.feed_forward or 4 * init.width,
        max_position_embeddings=max(max_length, DENSE_WIDTH),
        # The teacher's pad id may be a real piece's (SentencePiece models without <pad>): it must keep learning.
        pad_token_id=None,
    )
    return Backbone(
        family="bert",
        module=Transformer(BertModel(config, add_pooling_layer=False)),
        width=init.width,
        config=config.to_dict(),
        tokenizer=tokenizer,
        max_length=max_length,
    )
