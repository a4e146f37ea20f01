"""Keys: found by their hash alone, compared with all entries, never kept."""

import base64
import hmac
import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from polyfold.serve.access.keys import PREFIX, Allowance, KeyEntry, KeyRing, Keys, digest_key, new_key


def entry(key, name="shop", **more):
    return KeyEntry(name=name, sha256=digest_key(key), **more)


class Counting:
    """Compares for real, and remembers with what."""

    def __init__(self):
        self.seen = []

    def __call__(self, kept, digest):
        self.seen.append(kept)
        return hmac.compare_digest(kept, digest)


def test_a_new_key_has_256_random_bits_and_says_what_it_is():
    keys = {new_key() for _ in range(500)}
    assert len(keys) == 500
    for key in keys:
        assert key.startswith(PREFIX)
        assert len(base64.urlsafe_b64decode(key.removeprefix(PREFIX) + "=")) == 32


@settings(deadline=None)
@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_every_key_finds_its_own_entry_and_a_stranger_none(count, random):
    keys = [new_key() for _ in range(count)]
    entries = [entry(key, f"caller{place}") for place, key in enumerate(keys)]
    random.shuffle(entries)
    ring = KeyRing.of(entries)
    for place, key in enumerate(keys):
        found = ring.find(key)
        assert found is not None
        assert found.name == f"caller{place}"
    assert ring.find(new_key()) is None


@pytest.mark.parametrize(
    "which", [0, 3, 6, None], ids=["the first fits", "one fits", "the last fits", "none fits"]
)
def test_every_entry_is_compared_whichever_fits(which):
    keys = [new_key() for _ in range(7)]
    ring, compare = KeyRing.of(entry(key) for key in keys), Counting()
    found = ring.find(new_key() if which is None else keys[which], compare)
    assert (found is None) == (which is None)
    assert compare.seen == [kept for kept, _ in ring.entries]


def test_entries_are_compared_in_constant_time():
    assert inspect.signature(KeyRing.find).parameters["compare"].default is hmac.compare_digest


@pytest.mark.parametrize(
    "given_key",
    [
        "",
        "pf_",
        "secret",
        "é" * 46,
        new_key()[:-1],
        new_key() + "A",
        new_key() + "\n",
        "PF_" + new_key()[3:],
        "x" * 10**6,
    ],
    # Keys are new in every process, and runs side by side must agree on names.
    ids=["empty", "prefix", "word", "letters", "short", "long", "newline", "capitals", "huge"],
)
def test_what_has_not_the_form_of_a_key_is_neither_hashed_nor_compared(given_key):
    compare = Counting()
    assert KeyRing.of([entry(new_key())]).find(given_key, compare) is None
    assert compare.seen == []


def test_a_key_where_its_hash_belongs_is_refused_without_being_quoted():
    key = new_key()
    with pytest.raises(ValidationError) as raised:
        KeyEntry(name="shop", sha256=key)
    said = raised.value.errors()[0]["msg"]
    assert "polyfold key new" in said
    assert key not in said


def test_keys_of_one_name_are_one_caller_with_one_allowance():
    tight, wide = Allowance(requests_per_second=1), Allowance(requests_per_second=2)
    rotated = [entry(new_key(), allowance=tight), entry(new_key(), allowance=tight, roles=("admin",))]
    assert len(Keys(keys=rotated).keys) == 2
    with pytest.raises(ValidationError, match="allowances differ"):
        Keys(keys=[*rotated, entry(new_key(), allowance=wide)])


def test_a_key_cannot_stand_there_twice():
    twice = entry(new_key())
    with pytest.raises(ValidationError, match="twice"):
        Keys(keys=[twice, twice.model_copy(update={"name": "other"})])


@pytest.mark.parametrize(
    "given_values",
    [{"burst": 5}, {"burst_texts": 5}, {"requests_per_second": 0}, {"requests_per_second": "inf"},
     {"texts_per_day": 0}, {"requests": 5}],
)  # fmt: skip
def test_an_allowance_that_makes_no_sense_is_refused(given_values):
    with pytest.raises(ValidationError):
        Allowance.model_validate(given_values)


@given(st.floats(0.001, 1000), st.none() | st.integers(1, 1000))
def test_what_may_come_at_once_is_the_burst_or_what_a_second_brings(rate, burst):
    allowance = Allowance(requests_per_second=rate, burst=burst, texts_per_second=rate, burst_texts=burst)
    assert allowance.requests_at_once == allowance.texts_at_once
    assert allowance.requests_at_once == burst if burst else max(1, rate) <= allowance.requests_at_once < rate + 1
