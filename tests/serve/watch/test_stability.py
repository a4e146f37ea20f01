import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from toy_drift import Clock

from polyfold.serve.watch.stability import DRIFTED, LEAST_TEXTS, WATCH, Distance, Window, distance, texts_needed

counts = st.integers(1, 30).flatmap(
    lambda bins: st.tuples(
        *[st.lists(st.integers(0, 100_000), min_size=bins, max_size=bins).map(np.array) for _ in range(2)]
    )
)


@settings(deadline=None)
@given(counts)
def test_a_distribution_is_no_distance_from_itself(pair):
    found = distance(pair[0], pair[0])
    assert (found.stability_index, found.total_variation, found.level) == (0.0, 0.0, "ok")


@settings(deadline=None)
@given(counts)
def test_distances_are_symmetric_finite_and_never_negative_even_with_empty_bins(pair):
    there, back = distance(*pair), distance(pair[1], pair[0])
    assert there.stability_index == pytest.approx(back.stability_index)
    assert there.total_variation == pytest.approx(back.total_variation)
    assert 0.0 <= there.stability_index < np.inf
    assert 0.0 <= there.total_variation <= 1.0


@settings(deadline=None)
@given(counts, st.randoms(use_true_random=False))
def test_the_order_of_the_bins_and_bins_empty_in_both_change_nothing(pair, random):
    order = random.sample(range(len(pair[0])), len(pair[0]))
    padded = [np.append(one[order], [0, 0, 0]) for one in pair]
    plain, other = distance(*pair), distance(*padded)
    assert other.stability_index == pytest.approx(plain.stability_index)
    assert other.total_variation == pytest.approx(plain.total_variation)


@settings(deadline=None)
@given(counts, st.integers(2, 50))
def test_how_many_texts_there_were_hardly_matters_only_their_shares_do(pair, times):
    found = distance(pair[0], pair[0] * times)
    assert found.total_variation == pytest.approx(0.0, abs=1e-12)
    assert found.stability_index <= 30 / max(1, pair[0].sum())


def test_the_levels_begin_where_the_rule_of_thumb_has_them():
    below, at_watch, at_drifted = Distance(WATCH - 1e-9, 0.0), Distance(WATCH, 0.0), Distance(DRIFTED, 0.0)
    assert (below.level, at_watch.level, at_drifted.level) == ("ok", "watch", "drifted")


def test_what_shares_nothing_is_drifted_and_wholly_different():
    found = distance(np.array([500, 0]), np.array([0, 500]))
    assert found.level == "drifted"
    assert found.total_variation == 1.0


@pytest.mark.parametrize("bins", [2, 6, 15, 60])
@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_a_sample_of_the_reference_itself_is_not_watched_once_there_are_enough_texts(bins, skew):
    random = np.random.default_rng(bins)
    shares = np.arange(1, bins + 1) ** -skew
    shares /= shares.sum()
    documents = 5000
    needed = texts_needed(bins, documents)
    found = [
        distance(random.multinomial(documents, shares), random.multinomial(needed, shares)).level
        for _ in range(500)
    ]
    assert found.count("ok") >= 495
    # And with the whole window there is room to spare.
    full = [distance(random.multinomial(documents, shares), random.multinomial(5000, shares)) for _ in range(100)]
    assert max(one.stability_index for one in full) < WATCH


@pytest.mark.parametrize("bins", [2, 3, 10, 15, 60, 200])
def test_texts_needed_keep_chance_below_the_watch_level_in_999_of_1000_samples(bins):
    documents = 100_000
    needed = texts_needed(bins, documents)
    chance = chi2.ppf(0.999, bins - 1) * (1 / needed + 1 / documents)
    assert needed == LEAST_TEXTS or chance == pytest.approx(WATCH, rel=0.02)
    assert chance <= WATCH * 1.02


def test_more_bins_need_more_texts_and_a_small_reference_is_never_enough():
    needed = [texts_needed(bins, 2000) for bins in range(1, 60)]
    assert needed[0] == LEAST_TEXTS
    assert needed == sorted(needed)
    assert needed[-1] > 5 * LEAST_TEXTS
    assert texts_needed(15, 40) is None
    assert texts_needed(15, 0) is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 40), st.integers(0, 2)), max_size=80),
    st.integers(1, 200),
    st.floats(1, 300),
)
def test_a_window_holds_the_newest_texts_and_only_those(steps, texts, seconds):
    clock = Clock()
    window = Window(3, texts, seconds, clock)
    seen = []
    for wait, count, place in steps:
        clock.now += wait
        added = np.eye(3)[place] * count
        window.add(added, count)
        seen.append((clock.now, added))
        found, total = window.read()
        assert total == found.sum()
        # Some suffix of what came, nothing else.
        sums = [sum((one for _, one in seen[start:]), np.zeros(3)) for start in range(len(seen) + 1)]
        starts = [start for start, one in enumerate(sums) if np.array_equal(one, found)]
        assert starts
        # It reaches back for as many texts as it may hold, unless those are too old; a slice leaves as a whole.
        young = sum(one.sum() for moment, one in seen if moment > clock.now - seconds * (1 - 1 / 60))
        assert total >= min(texts, young)
        assert all(moment >= clock.now - seconds for moment, _ in seen[starts[-1] :])
        assert sum(sums[0]) <= texts or total < texts + texts / 20 + 40


def test_an_idle_window_empties():
    clock = Clock()
    window = Window(2, 100, 60.0, clock)
    window.add(np.array([3, 4]), 7)
    clock.now += 59.0
    assert window.read()[1] == 7
    clock.now += 2.0
    assert window.read()[1] == 0
    assert window.read()[0].tolist() == [0.0, 0.0]
