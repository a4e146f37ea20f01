"""The cache of a teacher's logits is computed once, read where it is whole, and otherwise made again."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.artifact import Artifact
from polyfold.batch import Batch
from polyfold.train.answers import Answer, TeacherSet
from polyfold.train.cache import cache_key, open_cache
from toys_torch import save_artifact, toy_documents, toy_model

DOCUMENTS = toy_documents(12, 1)
KEY = "0123456789abcdef"


def answers(seed=0, count=12):
    """Random answers to two tasks; one of them does not cover every document."""
    random = np.random.default_rng(seed)
    every = torch.ones(count)
    return {
        "domain": Answer(torch.from_numpy(random.normal(size=(count, 3)).astype(np.float32)), every > 0, every),
        "topics": Answer(
            torch.from_numpy(random.normal(size=(count, 4)).astype(np.float32)), torch.arange(count) % 3 > 0, every
        ),
    }


def batch_of(rows):
    ids = torch.zeros((len(rows), 1), dtype=torch.int64)
    return Batch(ids, torch.ones_like(ids), torch.tensor(rows, dtype=torch.int64))


class Asked:
    """A teacher that counts how often it is asked."""

    def __init__(self, found):
        self.found = found
        self.times = 0

    def __call__(self):
        self.times += 1
        return self.found


@settings(deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_any_rows_come_back_as_they_were_answered(tmp_path_factory, rows):
    found = answers()
    taught = open_cache(tmp_path_factory.getbasetemp() / "rows", KEY, lambda: found)(batch_of(rows))
    for name, answer in found.items():
        assert torch.equal(taught.logits[name], answer.logits[rows])
        assert torch.equal(taught.covered[name], answer.covered[rows])


def test_a_cache_is_computed_once(tmp_path, capfd):
    teacher = Asked(answers())
    open_cache(tmp_path, KEY, teacher)
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(written) == {f"teacher-{KEY}.arrow", f"teacher-{KEY}.sha256"}
    open_cache(tmp_path, KEY, teacher)
    assert teacher.times == 1
    assert written == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", (10, 400, -200, -5))
def test_a_damaged_byte_is_found_and_the_cache_made_again(place, tmp_path, capfd):
    teacher = Asked(answers())
    open_cache(tmp_path, KEY, teacher)
    path = tmp_path / f"teacher-{KEY}.arrow"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    path.write_bytes(damaged)
    taught = open_cache(tmp_path, KEY, teacher)(batch_of(range(12)))
    assert teacher.times == 2
    assert path.read_bytes() == whole
    assert torch.equal(taught.logits["domain"], answers()["domain"].logits)
    assert "does not match its checksum" in capfd.readouterr().err


def test_a_half_written_cache_is_made_again(tmp_path, capfd):
    open_cache(tmp_path, KEY, Asked(answers()))
    path = tmp_path / f"teacher-{KEY}.arrow"
    whole = path.read_bytes()
    for content, checksum in ((whole[: len(whole) // 2], True), (b"", True), (whole, False)):
        path.write_bytes(content)
        if not checksum:
            path.with_suffix(".sha256").unlink()
        teacher = Asked(answers())
        open_cache(tmp_path, KEY, teacher)
        assert teacher.times == 1
        assert path.read_bytes() == whole
        assert f"teacher-{KEY}" in capfd.readouterr().err


def test_a_cache_of_another_key_is_not_believed(tmp_path, capfd):
    open_cache(tmp_path, KEY, Asked(answers()))
    other = "f" * 16
    for ending in ("arrow", "sha256"):
        content = (tmp_path / f"teacher-{KEY}.{ending}").read_bytes()
        # With a checksum that is right for its new name, too.
        (tmp_path / f"teacher-{other}.{ending}").write_bytes(
            content.replace(f"-{KEY}".encode(), f"-{other}".encode())
        )
    teacher = Asked(answers(seed=1))
    taught = open_cache(tmp_path, other, teacher)(batch_of(range(12)))
    assert teacher.times == 1
    assert torch.equal(taught.logits["domain"], answers(seed=1)["domain"].logits)
    assert "belongs to other teachers or documents" in capfd.readouterr().err


def test_a_write_that_is_interrupted_leaves_nothing_that_is_read(tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc, "new_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_cache(tmp_path, KEY, Asked(answers()))
    assert list(tmp_path.glob("*")) == []
    teacher = Asked(answers())
    open_cache(tmp_path, KEY, teacher)
    assert teacher.times == 1


def test_logits_are_read_where_they_lie_in_the_file(tmp_path):
    before = pa.total_allocated_bytes()
    cache = open_cache(tmp_path, KEY, Asked(answers(count=50_000)))
    cache = open_cache(tmp_path, KEY, Asked(None))
    # 50,000 x 7 float32 are 1.4 MB; only the schema may be on the heap.
    assert pa.total_allocated_bytes() - before < 100_000
    assert torch.equal(cache(batch_of([49_999])).logits["topics"], answers(count=50_000)["topics"].logits[-1:])


def test_an_empty_split_has_an_empty_cache(tmp_path):
    taught = open_cache(tmp_path, KEY, Asked(answers(count=0)))(batch_of([]))
    assert taught.logits["domain"].shape == (0, 3)


def test_the_key_is_of_teachers_texts_and_languages_and_of_nothing_else(tmp_path):
    model = toy_model(tmp_path / "toy", seed=3)
    one = save_artifact(model, tmp_path / "toy", tmp_path, "one")
    teachers = TeacherSet(((one,),))
    key = cache_key(teachers, DOCUMENTS)
    assert cache_key(teachers, replace(DOCUMENTS, labels={}, ids=[], groups=[])) == key
    newer = Artifact(one.path, one.manifest.model_copy(update={"key": "another key"}))
    english = Artifact(one.path, one.manifest.model_copy(update={"spec": {"languages": ["en"]}}))
    others = [
        cache_key(teachers, DOCUMENTS.take(np.arange(12)[::-1])),
        cache_key(teachers, replace(DOCUMENTS, texts=[*DOCUMENTS.texts[:-1], "waiter"])),
        cache_key(teachers, replace(DOCUMENTS, languages=["fr"] * 12)),
        cache_key(TeacherSet(((newer,),)), DOCUMENTS),
        cache_key(TeacherSet(((english,),)), DOCUMENTS),
        cache_key(TeacherSet(((one,), (newer,))), DOCUMENTS),
        cache_key(TeacherSet(((one, newer),)), DOCUMENTS),
        cache_key(TeacherSet(((one,), (newer,)), {"domain": (0.4, 0.6)}), DOCUMENTS),
    ]
    assert len({key, *others}) == 9
