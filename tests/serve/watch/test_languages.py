import threading
from collections import Counter

import pytest
from toy_drift import Clock, reading_detector

from polyfold.errors import MissingExtra
from polyfold.serve.watch.drift_reference import OTHER
from polyfold.serve.watch.languages import (
    CHARACTERS,
    UNSURE,
    WAITING,
    Detector,
    LanguageSampler,
    language_of,
    open_detector,
)

KNOWN = frozenset({"de", "en"})


@pytest.mark.parametrize(
    ("ranking", "language"),
    [
        ([("de", 0.9), ("en", 0.1)], "de"),
        ([("fi", 0.6), ("de", 0.4)], OTHER),
        # Not sure enough of another language: the known ones compete.
        ([("nl", 0.45), ("de", 0.40), ("en", 0.15)], "de"),
        ([("nl", 0.40), ("de", 0.30), ("en", 0.30)], UNSURE),
        # Digits are no other language, and nothing at all is none.
        ([("zxx", 0.9), ("de", 0.1)], UNSURE),
        ([("fi", 0.01), ("de", 0.01)], UNSURE),
        ([("fi", 0.4), ("nl", 0.3)], UNSURE),
    ],
)
def test_a_text_is_in_a_known_language_another_or_none_that_is_sure(ranking, language):
    assert language_of(ranking, KNOWN) == language


def test_the_real_detector_tells_scripts_apart_and_finds_languages_nobody_expected():
    detector = open_detector()
    known = frozenset({"ar", "de", "en", "ja"})
    texts = {
        "ar": "أين طردي؟ لقد مر أسبوعان ولم يرد أحد على الهاتف.",
        "de": "Wo bleibt mein Paket? Seit zwei Wochen geht niemand ans Telefon.",
        "en": "Where is my parcel? It has been two weeks and nobody answers the phone.",
        "ja": "荷物はどこですか。二週間たっても誰も電話に出ません。",
        OTHER: "Missä pakettini on? Kahteen viikkoon kukaan ei ole vastannut puhelimeen.",
        UNSURE: "1234 5678 90",
    }
    assert known <= detector.languages
    assert {language_of(detector.rank(text), known): text for text in texts.values()} == texts
    assert language_of(detector.rank(""), known) == UNSURE


def sampling(per_second, clock, detector=reading_detector):
    return LanguageSampler(detector, per_second=per_second, clock=clock)


def test_no_more_than_so_many_texts_a_second_are_looked_at_and_all_are_as_likely():
    clock, found = Clock(), Counter()
    sampler = sampling(20, clock)
    # Every second: one large request in German, and 300 small ones in English.
    for _ in range(100):
        before = found.total()
        sampler.offer(["de"] * 700, KNOWN, lambda language: found.update([language]))
        for _ in range(300):
            clock.now += 1 / 301
            sampler.offer(["en"], KNOWN, lambda language: found.update([language]))
        sampler.drained()
        assert found.total() - before <= 2 * 20
        clock.now += 1 / 301
    sampler.close()
    assert 1500 <= found.total() <= 2020
    assert found["de"] / found.total() == pytest.approx(0.7, abs=0.05)


def test_a_client_that_alternates_languages_is_not_seen_by_halves():
    clock, found = Clock(), Counter()
    sampler = sampling(10, clock)
    for place in range(20_000):
        clock.now += 0.01
        sampler.offer(["de" if place % 2 else "en"], KNOWN, lambda language: found.update([language]))
        sampler.drained()
    sampler.close()
    assert found["de"] / found.total() == pytest.approx(0.5, abs=0.06)


def test_a_quiet_service_has_every_text_looked_at():
    clock, found = Clock(), Counter()
    sampler = sampling(20, clock)
    for _ in range(50):
        clock.now += 0.2
        sampler.offer(["de", "en"], KNOWN, lambda language: found.update([language]))
        sampler.drained()
    sampler.close()
    assert found == {"de": 50, "en": 50}


def test_a_detector_that_hangs_holds_nobody_up_and_little_is_kept_for_it():
    started, gate, seen = threading.Event(), threading.Event(), []

    def rank(text):
        started.set()
        assert gate.wait(10)
        seen.append(len(text))
        return [("de", 1.0)]

    clock = Clock()
    sampler = sampling(1_000_000, clock, lambda: Detector(KNOWN, rank))
    sampler.offer(["x" * 10_000], KNOWN, lambda language: None)
    assert started.wait(10)
    for _ in range(1000):
        sampler.offer(["x" * 10_000], KNOWN, lambda language: None)
    gate.set()
    sampler.drained()
    sampler.close()
    assert len(seen) == 1 + WAITING
    assert set(seen) == {CHARACTERS}


def test_without_the_library_it_says_what_to_install_and_takes_nothing():
    def missing():
        raise MissingExtra("py3langid", "serve")

    found = []
    sampler = sampling(1_000_000, Clock(), missing)
    for _ in range(3):
        sampler.offer(["de"] * WAITING, KNOWN, found.append)
        sampler.drained()
    sampler.close()
    assert "polyfold[serve]" in sampler.problem
    assert found == []


def test_a_detector_that_fails_is_told_of_without_the_text():
    def rank(text):
        raise ValueError(text)

    sampler = sampling(1_000_000, Clock(), lambda: Detector(KNOWN, rank))
    sampler.offer(["secret"] * 3, KNOWN, lambda language: None)
    sampler.drained()
    sampler.close()
    assert "ValueError" in sampler.problem
    assert "secret" not in sampler.problem
