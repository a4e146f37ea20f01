"""Backbones: one table of families, one way to load any of them from the hub or a local folder.

A backbone turns token ids into one vector a document. Transformers families are read by first-token pooling, as
the case study's classifiers are; the embedded encoder pools by itself.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from polyfold.artifact import digest_file
from polyfold.errors import InputError
from polyfold.model import use_multilingual
from polyfold.model.hub import hub_options
from polyfold.text import TokenizerSpec, open_tokenizer

TOKENIZER_JSON = "tokenizer.json"
NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class Family:
    """What we must know of a transformers `model_type`: how many positions its numbering wastes."""

    position_offset: int


# XLM-RoBERTa numbers positions from pad_token_id + 1 = 2, so two rows of its table are never used.
FAMILIES: Mapping[str, Family] = {
    "bert": Family(position_offset=0),  # mBERT, XtremeDistil, the older Multilingual-MiniLM
    "xlm-roberta": Family(position_offset=2),  # XLM-R and mMiniLMv2
    "roberta": Family(position_offset=2),
    "distilbert": Family(position_offset=0),
}


class Transformer(nn.Module):
    """A transformers encoder read at its first token."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, input_ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch hidden"]:
        """The last layer's state of the first token."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states[:, 0]


@dataclass(frozen=True)
class Backbone:
    """A loaded encoder with what the rest needs to know: its family, width, configuration and tokenizer."""

    family: str
    module: nn.Module
    width: int
    config: Mapping[str, Any]
    tokenizer: TokenizerSpec
    max_length: int
    weights: str = "trained"


def load_backbone(name: str, folder: Path, base: Path) -> Backbone:
    """Load `use-multilingual`, a hub id, or a local folder (seen from `base`); its tokenizer goes to `folder`."""
    if name == use_multilingual.FAMILY:
        module = use_multilingual.pretrained()
        spec = use_multilingual.copy_tokenizer(folder)
        return use_backbone(module, spec)
    source = _source(name, base)
    config = _auto_config(source, name)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise InputError(
            f"backbone '{name}' is of family '{config.model_type}', which has no row in the table",
            hint=f"choose one of the families {', '.join(sorted(FAMILIES))} or 'use-multilingual'",
        )
    from transformers import AutoModel

    options = {"add_pooling_layer": False} if config.model_type != "distilbert" else {}
    # A half-precision checkpoint would come as it is stored, and nothing here trains in that.
    encoder = AutoModel.from_pretrained(source, config=config, **options, **hub_options(source)).float()
    _copy_tokenizer_json(source, folder, config)
    pad_id = config.pad_token_id or 0
    return Backbone(
        family=config.model_type,
        module=Transformer(encoder),
        width=int(config.hidden_size),
        config={**config.to_dict(), "dtype": "float32"},
        tokenizer=TokenizerSpec(kind="tokenizers", file=TOKENIZER_JSON, pad_id=pad_id),
        max_length=int(config.max_position_embeddings) - family.position_offset,
        weights="random" if getattr(config, "polyfold_random_weights", False) else "trained",
    )


def backbone_files(name: str, base: Path) -> dict[str, str]:
    """SHA-256 of every file of a local backbone folder, by its path there; nothing for a name of the hub's."""
    folder = Path(_source(name, base))
    if not folder.is_dir():
        return {}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): digest_file(path) for path in files}


def use_backbone(module: use_multilingual.UseMultilingual, tokenizer: TokenizerSpec) -> Backbone:
    """Describe an embedded encoder; convolutions have no greatest length, so the limit is a guard only."""
    return Backbone(
        family=use_multilingual.FAMILY,
        module=module,
        width=module.config.sentence_width,
        config=module.config.model_dump(mode="json"),
        tokenizer=tokenizer,
        max_length=8192,
    )


def token_lengths(name: str, texts: Mapping[str, Sequence[str]], base: Path) -> dict[str, np.ndarray]:
    """Tokens of every text by split (int64 [n], specials included), by this backbone's tokenizer; no weights."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if name == use_multilingual.FAMILY:
            spec = use_multilingual.copy_tokenizer(folder)
        else:
            source = _source(name, base)
            _copy_tokenizer_json(source, folder, _auto_config(source, name))
            spec = TokenizerSpec(kind="tokenizers", file=TOKENIZER_JSON, pad_id=0)
        tokenizer = open_tokenizer(folder, spec)
        return {split: tokenizer.encode(list(some), NO_LIMIT).lengths for split, some in texts.items()}


def rebuild(family: str, config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a saved configuration, its weights still to be loaded."""
    if family == use_multilingual.FAMILY:
        known = {name: config[name] for name in use_multilingual.UseConfig.model_fields if name in config}
        return use_multilingual.UseMultilingual(use_multilingual.UseConfig(**known))
    from transformers import AutoConfig, AutoModel

    settings = {name: value for name, value in config.items() if name not in ("tasks", "polyfold", "model_type")}
    options = {"add_pooling_layer": False} if family != "distilbert" else {}
    return Transformer(AutoModel.from_config(AutoConfig.for_model(family, **settings), **options))


def token_embedding(module: nn.Module) -> nn.Embedding:
    """The table of token embeddings, wherever the family keeps it."""
    if isinstance(module, use_multilingual.UseMultilingual):
        return module.embedding
    assert isinstance(module, Transformer)
    found = module.encoder.get_input_embeddings()  # type: ignore[operator]
    assert isinstance(found, nn.Embedding)
    return found


def replace_embedding(module: nn.Module, table: Float[Tensor, "vocab hidden"], pad_id: int) -> None:
    """Put another token-embedding table in; the caller renumbers the tokenizer the same way."""
    rows, width = table.shape
    fresh = nn.Embedding(rows, width)
    with torch.no_grad():
        fresh.weight.copy_(table)
    if isinstance(module, use_multilingual.UseMultilingual):
        module.embedding = fresh
        module.config = module.config.model_copy(update={"vocab_size": rows})
        return
    assert isinstance(module, Transformer)
    if module.encoder.config.pad_token_id is not None:  # type: ignore[union-attr]
        fresh.padding_idx = pad_id
        module.encoder.config.pad_token_id = pad_id  # type: ignore[union-attr]
    module.encoder.set_input_embeddings(fresh)  # type: ignore[operator]
    module.encoder.config.vocab_size = rows  # type: ignore[union-attr]


def prefer_plain_attention(module: nn.Module) -> None:
    """Spell attention out as matrix products and a softmax: quantizers and exporters must see each of them."""
    if isinstance(module, Transformer):
        module.encoder.set_attn_implementation("eager")  # type: ignore[operator]


def resized(backbone: Backbone, tokenizer: TokenizerSpec) -> Backbone:
    """The same backbone described anew after its table and tokenizer were replaced."""
    rows = token_embedding(backbone.module).num_embeddings
    config = {**backbone.config, "vocab_size": rows}
    if config.get("pad_token_id") is not None:
        config["pad_token_id"] = tokenizer.pad_id
    return Backbone(
        backbone.family, backbone.module, backbone.width, config, tokenizer, backbone.max_length, backbone.weights
    )


def _source(name: str, base: Path) -> str:
    local = Path(name) if Path(name).is_absolute() else base / name
    return str(local) if local.is_dir() else name


def _auto_config(source: str, name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, **hub_options(source))
    except (OSError, ValueError) as error:
        raise InputError(
            f"backbone '{name}' cannot be loaded: {str(error).splitlines()[0]}",
            hint="give 'use-multilingual', a folder in the hub's layout, or a hub id (with the hub in reach)",
        ) from None


def _copy_tokenizer_json(source: str, folder: Path, config: Any) -> None:
    """Bring any of the ways a tokenizer is published to one `tokenizer.json`."""
    local = Path(source) / TOKENIZER_JSON
    if local.is_file():
        shutil.copyfile(local, folder / TOKENIZER_JSON)
        return
    from transformers import AutoTokenizer, XLMRobertaTokenizer

    # Multilingual-MiniLM (v1) is a BERT over XLM-R's SentencePiece vocabulary: AutoTokenizer looks for word
    # pieces and fails, so the class is chosen by the file that is there, or by the name in its configuration.
    sentencepiece = Path(source) / "sentencepiece.bpe.model"
    named = getattr(config, "tokenizer_class", None) == "XLMRobertaTokenizer"
    kind = (
        XLMRobertaTokenizer
        if config.model_type == "bert" and (sentencepiece.is_file() or named)
        else AutoTokenizer
    )
    try:
        tokenizer = kind.from_pretrained(source, **hub_options(source))
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"the backbone's tokenizer cannot be loaded: {first}", file=source) from None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError("the backbone has no fast tokenizer", file=source, hint="convert it to a tokenizer.json")
    # Where the vocabulary's file is missing, transformers makes a tokenizer of the special tokens alone.
    if backend.get_vocab_size() <= len(backend.get_added_tokens_decoder()):
        raise InputError(
            "the backbone has no tokenizer: its vocabulary holds special tokens only",
            file=source,
            hint="put its tokenizer.json, vocab.txt or sentencepiece.bpe.model there",
        )
    (folder / TOKENIZER_JSON).write_text(backend.to_str(), encoding="utf8")
