"""Timing of tokenizing: stand-ins give what the real ones would, differences are counted, goals judged."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.text import Encoding, TokenizerSpec, open_tokenizer
from toys_torch import WORDS, write_sentencepiece

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tokenizing  # noqa: E402
import tokenizing_roads as roads  # noqa: E402
from fresh import Spread  # noqa: E402


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=8), st.data())
def test_differences_count_documents_and_not_tokens(rows, data):
    changed = data.draw(st.sets(st.integers(0, len(rows) - 1)))
    one = Encoding.of([np.asarray(row) for row in rows])
    other = Encoding.of([np.asarray([*row, 1, 2] if place in changed else row) for place, row in enumerate(rows)])
    assert tokenizing.differences(one, other) == len(changed)
    assert tokenizing.differences(one, one) == 0


@given(st.integers(0, 59), st.integers(0, 60))
def test_what_is_known_of_neighbours_is_what_encoding_them_gives(onnx_predictor, toy_texts, start, count):
    tokenizer = onnx_predictor.tokenizer
    known = roads.Known(tokenizer, toy_texts, 16)
    some = toy_texts[start : start + count]
    right, found = tokenizer.encode(some, 16), known.encode(some, 16)
    assert tokenizing.differences(found, right) == 0 and (found.truncated == right.truncated).all()
    assert len(found) == len(some)


def test_a_session_that_answers_at_once_answers_every_batch_alike(onnx_predictor, toy_texts):
    session = roads.AtOnce.of(onnx_predictor.tasks)
    for batch in (1, 7):
        found = session.run(np.ones((batch, 5), np.int64), np.ones((batch, 5), np.int64))
        shapes = {task.name: (batch, len(task.labels)) for task in onnx_predictor.tasks}
        assert {name: values.shape for name, values in found.items()} == shapes
    predictor = replace(onnx_predictor, session=session)
    known = replace(predictor, tokenizer=roads.Known(predictor.tokenizer, toy_texts, predictor.config.max_length))
    assert list(predictor.predict(toy_texts)) == list(known.predict(toy_texts))


@pytest.mark.parametrize(("offset", "unk_id"), [(0, None), (1, 3)])
def test_the_bare_library_agrees_with_the_tokenizer_over_it(tmp_path, offset, unk_id):
    write_sentencepiece(tmp_path / "spm.model")
    spec = TokenizerSpec(
        kind="sentencepiece", file="spm.model", pad_id=1, offset=offset, unk_id=unk_id, begin_id=0, end_id=2
    )
    texts = [WORDS[0], "", f"{WORDS[1]} ☃", f"{WORDS[2]} " * 30]
    right = open_tokenizer(tmp_path, spec).encode(texts, 12)
    bare = roads.Bare.of(tmp_path / spec.file, spec)
    assert right.truncated.tolist() == [False, False, False, True]
    assert bare.differences(texts, right) == 0
    # Another text's ids are found to differ, cut ones aside.
    assert bare.differences(texts[::-1], right) == 3


def test_a_vocabulary_that_sentencepiece_cannot_run_has_no_floor(toy_folders):
    spec = TokenizerSpec(kind="tokenizers", file="tokenizer.json", pad_id=1)
    assert roads.Bare.of(toy_folders["onnxruntime"] / "tokenizer.json", spec) is None


def test_calls_take_turns_in_who_begins():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = tokenizing.in_turns(calls, 2)
    assert "".join(order) == "abc" + "abc" + "cba"
    assert {name: len(times) for name, times in found.items()} == {"a": 2, "b": 2, "c": 2}


@pytest.mark.parametrize("met", [True, False])
def test_the_goal_is_read_on_the_short_sample_with_all_threads(met):
    speed = tokenizing.GOAL + (1 if met else -1)

    def timed(threads, value):
        one = Spread(median=value, least=value, most=value, rounds=1)
        return tokenizing.Timed(
            threads=threads, documents_per_second={tokenizing.TOGETHER: one}, share_of_floor=None
        )

    def on(*values):
        return tokenizing.OnTexts(
            documents=1, mean_tokens=1, mean_bytes=1, compared_with="x", differences=0, floor_differences=None,
            timed=[timed(threads, value) for threads, value in enumerate(values, 1)],
        )  # fmt: skip

    texts = {tokenizing.SHORT: on(1e9, speed), tokenizing.CORPUS: on(1e9, 0)}
    goals = tokenizing.goals_of({"model": tokenizing.Subject(road="x", pieces=1, texts=texts)})
    assert goals["model"].met is met and goals["model"].value == speed


def test_toys_of_both_kinds_are_timed_and_right(torch_toys, tmp_path):
    for family, toy in torch_toys.items():
        folder, out = toy["folders"]["fp32"]["onnxruntime"], tmp_path / family
        arguments = [str(folder), "--data", str(tmp_path), "--quick", "--threads", "1", "2", "--out", str(out)]
        assert tokenizing.main(arguments) == 0
        found = tokenizing.TokenizingFile.model_validate_json((out / "tokenizing.json").read_bytes())
        (subject,) = found.subjects.values()
        assert list(subject.texts) == [tokenizing.SHORT] and set(found.goals) == set(found.subjects)
        texts = subject.texts[tokenizing.SHORT]
        assert texts.documents == 400 and texts.differences == 0
        assert [timed.threads for timed in texts.timed] == [1, 2]
        for timed in texts.timed:
            assert set(timed.documents_per_second) >= {
                tokenizing.OURS, tokenizing.PLANNING, tokenizing.AROUND, tokenizing.TOGETHER, tokenizing.NAMES,
                tokenizing.OBJECTS,
            }  # fmt: skip
            assert (tokenizing.FLOOR in timed.documents_per_second) == (timed.share_of_floor is not None)


def test_nothing_to_time_is_the_users_mistake(tmp_path, capsys):
    assert tokenizing.main(["--out", str(tmp_path)]) == 2
    assert "--tokenizers" in capsys.readouterr().err
    assert tokenizing.main(["--quick", "--tokenizers", str(tmp_path), "--data", str(tmp_path), "--out", "x"]) == 2
    assert "xlm-roberta" in capsys.readouterr().err
