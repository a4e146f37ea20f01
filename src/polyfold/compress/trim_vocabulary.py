"""The step that cuts a model's vocabulary to the pieces its texts use."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from polyfold.compress.bench import Bench
from polyfold.compress.vocabulary import choose_pieces, count_pieces, coverage_report, trim_tokenizer
from polyfold.console import note
from polyfold.model.backbone import replace_embedding, resized, token_embedding
from polyfold.model.classifier import Model
from polyfold.text import open_tokenizer


class TrimVocabulary(BaseModel):
    """Keep the pieces that make up `coverage` of the training (and unlabelled) tokens, or the `size` most frequent.

    `keep_characters` keeps every single character of the scripts seen, so that an unseen word falls back to
    characters before it falls to the unknown piece. `unlabelled` counts on the unlabelled texts as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["trim_vocabulary"] = "trim_vocabulary"
    coverage: float = Field(default=0.9999, gt=0.0, le=1.0)
    size: int | None = Field(default=None, ge=1)
    keep_characters: bool = True
    unlabelled: bool = True


def trim_vocabulary(spec: TrimVocabulary, model: Model, bench: Bench) -> tuple[Model, dict[str, float]]:
    """The model over a smaller table: same logits on every text whose pieces are all kept."""
    old = open_tokenizer(bench.source, model.backbone.tokenizer)
    counts = count_pieces(old, bench.data.train.texts, None)
    if spec.unlabelled and len(bench.data.unlabelled):
        counts = counts + count_pieces(old, bench.data.unlabelled.texts, None)
    keep = choose_pieces(
        bench.source, model.backbone.tokenizer, counts, spec.coverage, spec.size, spec.keep_characters
    )
    tokenizer, rows = trim_tokenizer(bench.source, model.backbone.tokenizer, keep, bench.folder)
    table = token_embedding(model.classifier.encoder).weight.detach()
    replace_embedding(model.classifier.encoder, table[torch.from_numpy(rows)], tokenizer.pad_id)
    backbone = resized(model.backbone, tokenizer)
    new = open_tokenizer(bench.folder, tokenizer)
    found = coverage_report(old, new, rows, bench.data.dev.texts, model.max_length)
    note(
        f"{bench.label}: {found.pieces_before:,} pieces -> {found.pieces_after:,}; of the dev texts "
        f"{found.changed_share:.2%} are cut otherwise, {found.gained_unknown_share:.2%} have a new unknown piece"
    )
    trimmed = Model(model.classifier, model.tasks, backbone, model.max_length)
    return trimmed, {
        "pieces_before": found.pieces_before,
        "pieces_after": found.pieces_after,
        "dev_texts_changed": found.changed_share,
        "dev_texts_with_new_unknown": found.gained_unknown_share,
    }
