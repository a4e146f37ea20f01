"""Backbones: one table of families, one way to load any of them from the hub or a local folder.

A backbone turns token ids into one vector a document. Transformers families are read by first-token pooling, as
the case study's classifiers are; the embedded encoder pools by itself.
"""

import json
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

from polyfold.artifact import CONFIG, digest_file
from polyfold.errors import InputError
from polyfold.model import stock, use_multilingual
from polyfold.model.factorized import FactorizedEmbedding
from polyfold.model.hub import hub_options, quietly
from polyfold.model.layout import base_family
from polyfold.text import TokenizerSpec, open_tokenizer

TOKENIZER_JSON = "tokenizer.json"
NO_LIMIT = 1_000_000
WORD_PIECE = ("bert", "distilbert")


@dataclass(frozen=True)
class Family:
    """What we must know of a transformers `model_type`.

    `position_offset`: how many rows of its position table its numbering wastes. `pooler`: whether its encoder
    comes with a pooling layer unless told otherwise; we read the first token itself.
    """

    position_offset: int = 0
    pooler: bool = True


# XLM-RoBERTa numbers positions from pad_token_id + 1 = 2, so two rows of its table are never used.
FAMILIES: Mapping[str, Family] = {
    "bert": Family(),  # mBERT, XtremeDistil, the older Multilingual-MiniLM
    "xlm-roberta": Family(position_offset=2),  # XLM-R and mMiniLMv2
    "roberta": Family(position_offset=2),
    "distilbert": Family(pooler=False),
    # mBERT's newest heir, mmBERT: rotary positions, two attention layers of three see a window only.
    "modernbert": Family(pooler=False),
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
    source = source_of(name, base)
    config = auto_config(source, name)
    family = known_family(config.model_type, name)
    from transformers import AutoModel

    options = {"add_pooling_layer": False} if family.pooler else {}
    # A half-precision checkpoint would come as it is stored, and nothing here trains in that.
    options |= {"output_loading_info": True, **hub_options(source)}
    with quietly():
        encoder, loading = AutoModel.from_pretrained(source, config=config, **options)
    if loading["missing_keys"]:
        raise InputError(
            f"backbone '{name}' lacks weights: {', '.join(sorted(loading['missing_keys'])[:3])}, ...",
            hint="its files hold another model than its config.json describes",
        )
    encoder = encoder.float()
    copy_tokenizer_json(source, folder, config)
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


def known_family(model_type: str, name: str) -> Family:
    """What must be known of a family; InputError where nothing is. `name` is what the user called the backbone."""
    family = FAMILIES.get(base_family(model_type))
    if family is None:
        raise InputError(
            f"backbone '{name}' is of family '{model_type}', which has no row in the table",
            hint=f"choose one of the families {', '.join(sorted(FAMILIES))} or 'use-multilingual'",
        )
    return family


def backbone_files(name: str, base: Path) -> dict[str, str]:
    """SHA-256 of every file of a local backbone folder, by its path there; nothing for a name of the hub's."""
    folder = Path(source_of(name, base))
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


def family_of(name: str, base: Path) -> str:
    """The family of a backbone or of one of our models by name, without its weights: from its config.json."""
    if name == use_multilingual.FAMILY:
        return name
    source = source_of(name, base)
    config = Path(source) / CONFIG
    if config.is_file() and "polyfold" in (content := json.loads(config.read_bytes())):
        return str(content["polyfold"]["family"])
    return str(auto_config(source, name).model_type)


def token_lengths(name: str, texts: Mapping[str, Sequence[str]], base: Path) -> dict[str, np.ndarray]:
    """Tokens of every text by split (int64 [n], specials included), by this backbone's tokenizer; no weights."""
    with TemporaryDirectory() as scratch:
        tokenizer = open_tokenizer(Path(scratch), copy_tokenizer(name, base, Path(scratch)))
        return {split: tokenizer.encode(list(some), NO_LIMIT).lengths for split, some in texts.items()}


def copy_tokenizer(name: str, base: Path, folder: Path) -> TokenizerSpec:
    """Bring a published backbone's tokenizer, and nothing else of it, to `folder`."""
    if name == use_multilingual.FAMILY:
        return use_multilingual.copy_tokenizer(folder)
    source = source_of(name, base)
    config = auto_config(source, name)
    copy_tokenizer_json(source, folder, config)
    return TokenizerSpec(kind="tokenizers", file=TOKENIZER_JSON, pad_id=config.pad_token_id or 0)


def rebuild(family: str, config: Mapping[str, Any]) -> nn.Module:
    """The encoder of a saved configuration, its weights still to be loaded."""
    if family == use_multilingual.FAMILY:
        known = {name: config[name] for name in use_multilingual.UseConfig.model_fields if name in config}
        return use_multilingual.UseMultilingual(use_multilingual.UseConfig(**known))
    if family == stock.FAMILY:
        return Transformer(stock.rebuild_trunk(config))
    from transformers import AutoConfig, AutoModel

    settings = {name: value for name, value in config.items() if name not in ("tasks", "polyfold", "model_type")}
    if family != base_family(family):
        from polyfold.model import pruned

        pruned.register()
    options = {"add_pooling_layer": False} if FAMILIES[base_family(family)].pooler else {}
    return Transformer(AutoModel.from_config(AutoConfig.for_model(family, **settings), **options))


def token_embedding(module: nn.Module) -> nn.Embedding:
    """The table of token embeddings, wherever the family keeps it; of a factorized one the narrow table."""
    if isinstance(module, use_multilingual.UseMultilingual):
        return module.embedding
    assert isinstance(module, Transformer)
    found = module.encoder.get_input_embeddings()  # type: ignore[operator]
    if isinstance(found, FactorizedEmbedding):
        return found.table
    assert isinstance(found, nn.Embedding)
    return found


def embedding_rows(module: nn.Module) -> Float[Tensor, "vocab hidden"]:
    """What the layers above read of every piece, without gradient; a factorized table is multiplied out."""
    table = token_embedding(module).weight.detach()
    if isinstance(module, use_multilingual.UseMultilingual):
        expanded: Tensor = module.expansion(table).detach()
        return expanded
    assert isinstance(module, Transformer)
    whole = module.encoder.get_input_embeddings()  # type: ignore[operator]
    return whole.projection(table).detach() if isinstance(whole, FactorizedEmbedding) else table


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
    whole = module.encoder.get_input_embeddings()  # type: ignore[operator]
    if isinstance(whole, FactorizedEmbedding):
        whole.table = fresh
    else:
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
    # ModernBERT's begin and end have the highest ids of its vocabulary. No encoder reads them.
    for name in ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        if isinstance(old := config.get(name), int) and old >= rows:
            config[name] = None
    return Backbone(
        backbone.family, backbone.module, backbone.width, config, tokenizer, backbone.max_length, backbone.weights
    )


def source_of(name: str, base: Path) -> str:
    """The local folder of that name seen from `base`, or the name itself: a hub id."""
    local = Path(name) if Path(name).is_absolute() else base / name
    return str(local) if local.is_dir() else name


def auto_config(source: str, name: str) -> Any:
    """The transformers configuration of a folder or hub id; `name` is what the user called it."""
    from transformers import AutoConfig

    from polyfold.model import pruned

    pruned.register()
    try:
        return AutoConfig.from_pretrained(source, **hub_options(source))
    except (OSError, ValueError) as error:
        raise InputError(
            f"backbone '{name}' cannot be loaded: {str(error).splitlines()[0]}",
            hint="give 'use-multilingual', a folder in the hub's layout, or a hub id (with the hub in reach)",
        ) from None


def copy_tokenizer_json(source: str, folder: Path, config: Any) -> None:
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
    unigram = config.model_type == "bert" and (sentencepiece.is_file() or named)
    options = {} if unigram or config.model_type not in WORD_PIECE else _casing(Path(source))
    try:
        kind = XLMRobertaTokenizer if unigram else AutoTokenizer
        tokenizer = kind.from_pretrained(source, **options, **hub_options(source))
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


def _casing(folder: Path) -> dict[str, bool]:
    """Whether to lower texts, read off the vocabulary of a folder whose vocab.txt comes with no word on it.

    transformers would lower them, as the first English BERT did, and mBERT's capitals would never be met.
    """
    vocabulary, settings = folder / "vocab.txt", folder / "tokenizer_config.json"
    told = settings.is_file() and "do_lower_case" in json.loads(settings.read_bytes())
    if told or not vocabulary.is_file():
        return {}
    pieces = vocabulary.read_text(encoding="utf8").splitlines()
    cased = any(piece != piece.lower() for piece in pieces if not piece.startswith("["))
    return {"do_lower_case": not cased}
