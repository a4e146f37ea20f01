"""Chains of merges: what a byte-pair piece is made of is what it needs, and no more than that."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trimming_examples import WORDS, Example, make_examples

from polyfold.model.merges import MergeTable, ScoredChains
from polyfold.model.tokenizer_files import write_pieces
from polyfold.model.vocabulary import trim_tokenizer

# Of these each piece is made by one merge; in the others another way may lead to a piece when the first is barred.
TRAINED = ("bpe", "bpe with marks", "bpe of bytes")
BPE = (*TRAINED, "bpe with bytes", "sentencepiece bpe", "sentencepiece bpe as in XLM-R")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    made = make_examples(tmp_path_factory.mktemp("full"))
    return {kind: made[kind] for kind in BPE}


def test_a_chain_is_every_piece_on_the_way():
    table = MergeTable({("a", "b"): 0, ("ab", "c"): 1, ("b", "c"): 2})
    assert table.of("abc") == {"a", "b", "c", "ab", "abc"}
    assert table.of("bc") == {"b", "c", "bc"}
    scored = ScoredChains({"ab": -1.0, "bc": 0.0, "abc": -2.0, "a": -3.0, "b": -4.0, "c": -5.0})
    assert scored.of("abc") == {"a", "b", "c", "bc", "abc"}


def test_a_piece_that_nothing_leads_to_has_itself_alone():
    assert MergeTable({("a", "b"): 0}).of("whole") == {"whole"}
    assert ScoredChains({"ab": -1.0}).of("whole") == {"whole"}
    # "bc" is joined first, and nothing joins "a" with that.
    assert MergeTable({("b", "c"): 0, ("a", "b"): 1}).of("abc") == {"abc"}


def test_where_the_string_does_not_lead_to_a_piece_all_that_merges_make_it_of_stays():
    table = MergeTable({("<0xE4>", "<0xB8>"): 0, ("<0xE4><0xB8>", "<0xAD>"): 1})
    whole = "<0xE4><0xB8><0xAD>"
    assert table.of(whole) == {"<0xE4>", "<0xB8>", "<0xAD>", "<0xE4><0xB8>", whole}


def test_marks_of_continuation_and_end_are_put_on_letters_and_dropped_in_merges():
    table = MergeTable({("a", "##b"): 0, ("ab", "##c</w>"): 1}, "##", "</w>")
    assert table.joined("ab", "##c</w>") == "abc</w>"
    assert table.of("abc</w>") == {"a", "##b", "##c</w>", "ab", "abc</w>"}


def reached(example: Example) -> list[int]:
    """Ids that come out of some word."""
    found = np.unique(
        np.concatenate(example.tokenizer.encode([*WORDS, *(f"x{word}" for word in WORDS)], 1000).ids)
    )
    return [int(index) for index in found if len(example.pieces.made_of(int(index))) > 3]


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(TRAINED), data=st.data())
def test_a_piece_needs_each_piece_of_its_chain(examples, kind, data):
    full = examples[kind]
    pieces = full.pieces
    index = data.draw(st.sampled_from(reached(full)))
    made_of = sorted({part for part in pieces.made_of(index) if part != index and not pieces.special[part]})
    if not made_of:
        return
    missing = data.draw(st.sampled_from(made_of))
    without = pieces.required
    without[pieces.made_of(index)] = True
    without[missing] = False
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = np.flatnonzero(without & pieces.present)
        crippled = Example.open(folder, write_pieces(full.folder, full.spec, rows, folder))
        _, whole_rows = trim_tokenizer(full.folder, full.spec, np.asarray([index]), folder / "whole")
        assert missing in whole_rows
        # No text gives the piece any more: not even those that gave it before.
        for word in (text for text in WORDS if index in full.ids(text)):
            assert index not in rows[crippled.ids(word)]


@pytest.mark.parametrize("kind", [kind for kind in BPE if "sentencepiece" not in kind])
@pytest.mark.parametrize("old", [False, True])
def test_merges_that_are_left_have_all_three_pieces_and_their_old_order_and_spelling(
    examples, kind, old, tmp_path
):
    full = examples[kind]
    content = full.content()
    merges = content["model"]["merges"]
    if old and not any(" " in half for pair in merges for half in pair):
        content["model"]["merges"] = [" ".join(pair) for pair in merges]
        (tmp_path / full.spec.file).write_text(json.dumps(content), encoding="utf8")
        full = Example.open(tmp_path, full.spec)
    merges = full.content()["model"]["merges"]
    trimmed, _ = full.trimmed(full.ids("the room was clean"), tmp_path / "trimmed")
    left = trimmed.content()["model"]["merges"]
    assert 0 < len(left) < len(merges)
    assert left == [merge for merge in merges if merge in left]
    vocab = trimmed.content()["model"]["vocab"]
    table = MergeTable.of_model(trimmed.content()["model"])
    for pair in table.ranks:
        assert {*pair, table.joined(*pair)} <= set(vocab)
