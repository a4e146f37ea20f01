"""Cutting a model's vocabulary to the pieces its texts use: tokenizer file and embedding table together."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from polyfold.console import note
from polyfold.errors import InputError
from polyfold.model.backbone import Backbone, Transformer, replace_embedding, resized, token_embedding
from polyfold.model.corpus import CorpusSpec, corpus_files
from polyfold.model.pieces import Pieces
from polyfold.model.scripts import scripts_of
from polyfold.model.tokenizer_files import read_pieces
from polyfold.model.vocabulary import (
    CoverageReport,
    Text,
    check_room,
    check_spelling,
    choose_pieces,
    count_by_language,
    coverage_report,
    trim_tokenizer,
)
from polyfold.text import Tokenizer, TokenizerSpec, open_tokenizer

# Every id of a token that a configuration of transformers may hold. The padding id is the tokenizer's business: a
# configuration may name another row (Multilingual-MiniLM, a BERT over XLM-R's pieces, pads with <s>).
_TOKEN_IDS = tuple(f"{role}_token_id" for role in ("pad", "bos", "eos", "unk", "cls", "sep", "mask"))


class TrimVocabulary(BaseModel):
    """Keep the pieces that make up `coverage` of the tokens of the training texts, and no more than `size`.

    `languages` counts texts in these languages only, and keeps the characters of the scripts that they are written
    in (without it, of the scripts that the kept pieces are written in). `keep_scripts` keeps longer pieces in them
    as well, seen or not, so that no text in them is cut otherwise. `per_language` meets the coverage within
    each language. `keep_characters` keeps every single character of those scripts, so that an unseen word falls
    back to characters before it falls to the unknown piece. `unlabelled` counts on the unlabelled texts as well,
    `corpus` on a file of others; a path alone will do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trim_vocabulary"] = "trim_vocabulary"
    coverage: float = Field(default=0.9999, gt=0.0, le=1.0)
    size: int | None = Field(default=None, ge=1)
    keep_characters: bool = True
    keep_scripts: bool = False
    languages: tuple[str, ...] | None = Field(default=None, min_length=1)
    per_language: bool = False
    unlabelled: bool = True
    corpus: CorpusSpec | None = None

    @field_validator("corpus", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        by_language = "languages" if self.languages else "per_language" if self.per_language else None
        if by_language is not None and self.corpus is not None and self.corpus.language is None:
            raise ValueError(f"{by_language} needs to know the corpus's languages: name its column, `language`")
        return self

    def files(self, base: Path) -> dict[str, str]:
        """SHA-256 of every file the step reads, by the name the recipe gives it."""
        return {} if self.corpus is None else corpus_files(self.corpus, base)


@dataclass(frozen=True)
class Trimmed:
    """The backbone over the smaller table, its tokenizer in the target folder, and what that did to dev texts."""

    backbone: Backbone
    report: CoverageReport

    def figures(self) -> dict[str, float]:
        """What a manifest keeps of it."""
        return {
            "pieces_before": self.report.pieces_before,
            "pieces_after": self.report.pieces_after,
            "dev_texts_changed": self.report.changed_share,
            "dev_texts_with_new_unknown": self.report.gained_unknown_share,
        }


def trim(
    spec: TrimVocabulary,
    backbone: Backbone,
    source: Path,
    target: Path,
    counted: Iterable[Text],
    others: Iterable[Text],
) -> Trimmed:
    """Cut the backbone's table in place and write the trimmed tokenizer to `target` (not `source`, its folder).

    Pieces are counted on `counted`; `others` (dev texts) only tell how many texts are now cut otherwise. Every
    text whose pieces are all kept gets the same logits as before. InputError where the configuration names a
    special token that the vocabulary lacks, or a language has no text.
    """
    table = token_embedding(backbone.module).weight.detach()
    pieces, special = _pieces(backbone.config, source, backbone.tokenizer)
    if len(pieces) > len(table):
        raise InputError(
            f"the tokenizer has {len(pieces):,} pieces, the model's embedding table {len(table):,} rows",
            file=source / backbone.tokenizer.file,
            hint="give the tokenizer that the model was trained with",
        )
    old = open_tokenizer(source, backbone.tokenizer)
    counts = _counts(spec, old, counted)
    scripts = None if spec.languages is None else scripts_of(spec.languages)
    keep = choose_pieces(
        pieces, counts, spec.coverage, spec.size, spec.keep_characters, scripts, spec.keep_scripts
    )
    tokenizer, rows = trim_tokenizer(source, backbone.tokenizer, keep, target)
    replace_embedding(backbone.module, table[torch.from_numpy(rows)], tokenizer.pad_id)
    renumbered = {name: int(np.searchsorted(rows, old_id)) for name, old_id in special.items()}
    report = coverage_report(old, open_tokenizer(target, tokenizer), rows, _texts(spec, others))
    note(
        f"vocabulary: {report.pieces_before:,} pieces -> {report.pieces_after:,}; of the dev texts "
        f"{report.changed_share:.2%} are cut otherwise, {report.gained_unknown_share:.2%} have a new unknown piece"
    )
    return Trimmed(_renumbered(resized(backbone, tokenizer), renumbered), report)


def check_trim(spec: TrimVocabulary, config: Mapping[str, Any], folder: Path, tokenizer: TokenizerSpec) -> None:
    """InputError, before any text is counted, where this tokenizer cannot be trimmed so."""
    pieces, _ = _pieces(config, folder, tokenizer)
    check_spelling(pieces, folder / tokenizer.file)
    if spec.size is not None:
        check_room(spec.size, int(pieces.required.sum()))


def _pieces(config: Mapping[str, Any], folder: Path, tokenizer: TokenizerSpec) -> tuple[Pieces, dict[str, int]]:
    """A tokenizer's pieces, those among the special ones that the model's configuration names, and their ids."""
    pieces = read_pieces(folder, tokenizer)
    special = _special_ids(config, pieces, folder / tokenizer.file)
    named = np.isin(np.arange(len(pieces)), list(special.values()))
    return replace(pieces, special=pieces.special | named), special


def _counts(spec: TrimVocabulary, tokenizer: Tokenizer, counted: Iterable[Text]) -> np.ndarray:
    """Counts of the texts that the spec wants: int64 [vocab]; [languages, vocab] where each is for itself."""
    seen: set[str] = set()

    def chosen() -> Iterator[Text]:
        for language, text in counted:
            seen.add(language)
            if spec.languages is None or language in spec.languages:
                yield language, text

    counts = count_by_language(tokenizer, chosen())
    check_known(spec.languages or (), seen)
    if not counts:
        raise InputError("there are no texts to count pieces on", key="trim_vocabulary")
    stacked = np.stack([counts[language] for language in sorted(counts)])
    return stacked if spec.per_language else np.asarray(stacked.sum(axis=0))


def check_known(languages: Iterable[str], seen: Collection[str]) -> None:
    """InputError for a language that no text is in."""
    for language in languages:
        if language not in seen:
            raise InputError(
                f"no text is in language '{language}'",
                key="trim_vocabulary.languages",
                hint=f"languages of the texts: {', '.join(sorted(seen)[:40]) or 'there are no texts'}",
            )


def _texts(spec: TrimVocabulary, texts: Iterable[Text]) -> Iterator[str]:
    return (text for language, text in texts if spec.languages is None or language in spec.languages)


def _special_ids(config: Mapping[str, Any], pieces: Pieces, file: Path) -> dict[str, int]:
    """The special tokens that a configuration names by id: rows that must stay, whatever the tokenizer says."""
    found = {name: config[name] for name in _TOKEN_IDS if isinstance(config.get(name), int)}
    for name, index in found.items():
        if not 0 <= index < len(pieces) or pieces.texts[index] is None:
            raise InputError(
                f"the model's configuration needs a special token that the vocabulary lacks: {name} is {index}",
                file=file,
                hint="correct it in the backbone's config.json, or take it out if nothing uses that token",
            )
    return found


def _renumbered(backbone: Backbone, ids: Mapping[str, int]) -> Backbone:
    """The backbone with the new ids of its special tokens, in its description and in the module's own settings."""
    # The padding row was told to the module and to the description with the table.
    others = {name: index for name, index in ids.items() if name != "pad_token_id"}
    if isinstance(backbone.module, Transformer):
        settings = backbone.module.encoder.config
        for name, index in others.items():
            setattr(settings, name, index)
    return replace(backbone, config={**backbone.config, **others})
