"""Cutting a model's vocabulary to the pieces its texts use: tokenizer file and embedding table together."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from polyfold.console import note
from polyfold.model.backbone import replace_embedding, token_embedding
from polyfold.model.vocabulary import CoverageReport, choose_pieces, count_pieces, coverage_report, trim_tokenizer
from polyfold.text import TokenizerSpec, open_tokenizer


class TrimVocabulary(BaseModel):
    """Keep the pieces that make up `coverage` of the tokens of the training texts, and no more than `size`.

    `keep_characters` keeps every single character of the scripts seen, so that an unseen word falls back to
    characters before it falls to the unknown piece. `unlabelled` counts on the unlabelled texts as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trim_vocabulary"] = "trim_vocabulary"
    coverage: float = Field(default=0.9999, gt=0.0, le=1.0)
    size: int | None = Field(default=None, ge=1)
    keep_characters: bool = True
    unlabelled: bool = True


@dataclass(frozen=True)
class Trimmed:
    """The new tokenizer's spec (its file lies in the target folder), and what trimming did to other texts."""

    tokenizer: TokenizerSpec
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
    encoder: nn.Module,
    source: tuple[Path, TokenizerSpec],
    target: Path,
    counted: Iterable[str],
    others: Iterable[str],
) -> Trimmed:
    """Cut the encoder's table in place and write the trimmed tokenizer to `target` (not the source's folder).

    Pieces are counted on `counted`; `others` (dev texts) only tell how many texts are now cut otherwise. Every
    text whose pieces are all kept gets the same logits as before.
    """
    folder, old_spec = source
    old = open_tokenizer(folder, old_spec)
    counts = count_pieces(old, counted)
    keep = choose_pieces(folder, old_spec, counts, spec.coverage, spec.size, spec.keep_characters)
    tokenizer, rows = trim_tokenizer(folder, old_spec, keep, target)
    table = token_embedding(encoder).weight.detach()
    replace_embedding(encoder, table[torch.from_numpy(rows)], tokenizer.pad_id)
    report = coverage_report(old, open_tokenizer(target, tokenizer), rows, others)
    note(
        f"vocabulary: {report.pieces_before:,} pieces -> {report.pieces_after:,}; of the dev texts "
        f"{report.changed_share:.2%} are cut otherwise, {report.gained_unknown_share:.2%} have a new unknown piece"
    )
    return Trimmed(tokenizer, report)
