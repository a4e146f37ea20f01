"""Laws of splitting by group."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.data.splits import make_splits
from polyfold.errors import InputError

FRACTIONS = {"train": 0.8, "test": 0.1, "dev": 0.1}


ROW = st.tuples(
    st.integers(0, 25),
    st.sampled_from(["en", "de", "ja"]),
    st.integers(-1, 3),
    st.sampled_from([(-1, -1), (0, 0), (0, 1), (1, 0), (1, 1)]),
)


def corpus_of(rows):
    """Groups, languages and labels."""
    groups, languages, single, multi = zip(*rows, strict=True)
    labels = {"one": np.asarray(single, dtype=np.int64), "many": np.asarray(multi, dtype=np.int8)}
    return [f"g{group}" for group in groups], list(languages), labels


CORPORA = (
    st.lists(ROW, min_size=3, max_size=60).filter(lambda rows: len({row[0] for row in rows}) > 2).map(corpus_of)
)


@settings(max_examples=40, deadline=None)
@given(CORPORA, st.integers(0, 2**31))
def test_groups_never_cross_splits_and_no_split_is_empty(corpus, seed):
    groups, languages, labels = corpus
    split = make_splits(groups, languages, labels, FRACTIONS, seed)
    of_group = {}
    for group, one in zip(groups, split, strict=True):
        assert of_group.setdefault(group, one) == one
    assert set(of_group.values()) == {0, 1, 2}


@settings(max_examples=25, deadline=None)
@given(CORPORA, st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(corpus, seed, random):
    groups, languages, labels = corpus
    order = list(range(len(groups)))
    random.shuffle(order)
    split = make_splits(groups, languages, labels, FRACTIONS, seed)
    shuffled = make_splits(
        [groups[i] for i in order],
        [languages[i] for i in order],
        {name: values[order] for name, values in labels.items()},
        FRACTIONS,
        seed,
    )
    assert (shuffled == split[order]).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=3, max_size=80), st.integers(0, 99))
def test_every_label_of_three_documents_or_more_is_in_every_split(labels, seed):
    values = np.asarray(labels, dtype=np.int64)
    names = [str(i) for i in range(len(values))]
    split = make_splits(names, [f"l{i % 7}" for i in range(len(values))], {"task": values}, FRACTIONS, seed)
    most = max(labels.count(label) for label in labels)
    for label in set(labels):
        # Fewer than three: train first, then test. (All different ones may have to fill an empty split.)
        if most >= 3:
            assert set(split[values == label].tolist()) == set(range(min(3, labels.count(label)))), label


def test_fractions_are_met_within_each_label_and_language():
    random = np.random.default_rng(0)
    count = 20_000
    labels = random.choice(4, count, p=[0.7, 0.2, 0.07, 0.03]).astype(np.int64)
    languages = random.choice(["en", "de", "th"], count).tolist()
    split = make_splits([str(i) for i in range(count)], languages, {"task": labels}, FRACTIONS, 3)
    for label in range(4):
        for language in ("en", "de", "th"):
            inside = split[(labels == label) & (np.asarray(languages) == language)]
            shares = np.bincount(inside, minlength=3) / len(inside)
            assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.03


def test_another_seed_makes_another_split():
    names = [str(i) for i in range(200)]
    first, second = (make_splits(names, ["en"] * 200, {}, FRACTIONS, seed) for seed in (0, 1))
    assert (first != second).any()


def test_too_few_groups_are_refused():
    with pytest.raises(InputError, match="2 groups cannot be split"):
        make_splits(["a", "a", "b"], ["en"] * 3, {}, FRACTIONS, 0)
