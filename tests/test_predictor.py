"""The laws of prediction: how texts are batched, ordered and repeated changes nothing."""

import subprocess
import sys
import threading
import tracemalloc
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.errors import InputError
from polyfold.predictor import Predictor
from toys import TOY_MAX_LENGTH, TOY_TASKS, RecordingSession, toy_graph, write_toy_folder

DOMAIN, TOPICS = TOY_TASKS


@dataclass
class RecordingTokenizer:
    """A tokenizer that remembers which threads called it, and has room for so many texts."""

    inner: object
    threads: list = field(default_factory=list)
    room: int = 10_000

    @property
    def spec(self):
        return self.inner.spec

    def encode(self, texts, max_length):
        self.threads.append(threading.current_thread())
        self.room -= len(texts)
        if self.room < 0:
            raise MemoryError("no room")
        return self.inner.encode(texts, max_length)


class BrokenSession:
    def run(self, input_ids, attention_mask):
        raise OSError("the session broke")


def assert_same(left, right):
    assert [one.labels for one in left] == [one.labels for one in right]
    assert [one.truncated for one in left] == [one.truncated for one in right]
    for one, other in zip(left, right, strict=True):
        for task in one.probabilities:
            assert one.probabilities[task] == pytest.approx(other.probabilities[task], abs=1e-5)


def test_batched_is_one_by_one(toy_predictor, toy_texts):
    together = toy_predictor.predict(toy_texts)
    alone = [toy_predictor.predict([text])[0] for text in toy_texts]
    assert_same(together, alone)
    # The toy tells its texts apart, so that equality says something.
    assert {one.labels["domain"] for one in together} == set(DOMAIN.labels)
    assert len({tuple(one.labels["topics"]) for one in together}) > 4


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_order_of_texts_is_the_order_of_predictions(toy_predictor, toy_texts, data):
    order = data.draw(st.permutations(range(len(toy_texts))))
    straight = toy_predictor.predict(toy_texts)
    assert_same(toy_predictor.predict([toy_texts[i] for i in order]), [straight[i] for i in order])


@settings(max_examples=25, deadline=None)
@given(token_budget=st.integers(1, 500), window=st.integers(1, 70), data=st.data())
def test_token_budget_window_and_repetitions_change_nothing(onnx_predictor, toy_texts, token_budget, window, data):
    rows = data.draw(st.lists(st.integers(0, len(toy_texts) - 1), max_size=150))
    other = replace(onnx_predictor, token_budget=token_budget, window=window)
    straight = onnx_predictor.predict(toy_texts)
    assert_same(other.predict([toy_texts[row] for row in rows]), [straight[row] for row in rows])


def test_batches_stay_within_the_token_budget(onnx_predictor, toy_texts):
    session = RecordingSession(onnx_predictor.session)
    replace(onnx_predictor, session=session, token_budget=64).predict(toy_texts)
    assert len(session.batches) > 5
    assert max(batch.size for batch in session.batches) <= 64


def test_equal_texts_are_computed_once_and_answered_alike(onnx_predictor, toy_texts):
    session = RecordingSession(onnx_predictor.session)
    repeated = [*toy_texts, *reversed(toy_texts), toy_texts[3]]
    found = replace(onnx_predictor, session=session).predict(repeated)
    assert sum(len(batch) for batch in session.batches) == len(toy_texts)
    assert found[: len(toy_texts)] == found[len(toy_texts) : 2 * len(toy_texts)][::-1]
    assert found[-1] == found[3]


def test_the_next_window_is_tokenized_elsewhere_and_its_error_comes_through(onnx_predictor, toy_texts):
    tokenizer = RecordingTokenizer(onnx_predictor.tokenizer)
    small = replace(onnx_predictor, tokenizer=tokenizer, window=10)
    assert_same(small.predict(toy_texts), onnx_predictor.predict(toy_texts))
    assert len(tokenizer.threads) == -(-len(toy_texts) // 10)
    assert threading.main_thread() not in tokenizer.threads
    tokenizer.room = 20
    with pytest.raises(MemoryError, match="no room"):
        small.predict(toy_texts)
    failing = replace(small, tokenizer=onnx_predictor.tokenizer, session=BrokenSession())
    with pytest.raises(OSError, match="the session broke"):
        failing.predict(toy_texts)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("one-ahead")]


def test_memory_does_not_grow_with_the_number_of_texts_but_for_the_answers(onnx_predictor):
    # What is held apart from answers and texts: ids and logits of two windows.
    small = replace(onnx_predictor, window=200)
    peaks = []
    for count in (2_000, 20_000):
        texts = [f"w{row % 200} w{row % 7} w{row % 11}" for row in range(count)]
        tracemalloc.start()
        found = small.predict(texts)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        columns = [found.truncated, *found.probabilities.values(), *found.decided.values()]
        # Logits and one softmax's intermediate beside the answers themselves.
        peaks.append(peak - 4 * sum(column.nbytes for column in columns))
    assert peaks[1] < peaks[0] + 300_000


def test_probabilities_are_calibrated_and_decide_the_labels(toy_predictor, toy_texts):
    logits = toy_predictor.logits(toy_texts)
    for row, prediction in enumerate(toy_predictor.predict(toy_texts)):
        domain, topics = prediction.probabilities["domain"], prediction.probabilities["topics"]
        scaled = np.exp(logits["domain"][row] / DOMAIN.temperature)
        assert list(domain.values()) == pytest.approx(scaled / scaled.sum(), abs=1e-5)
        assert prediction.labels["domain"] == max(domain, key=domain.get)
        assert list(topics.values()) == pytest.approx(1 / (1 + np.exp(-logits["topics"][row])), abs=1e-5)
        tuned = dict(zip(TOPICS.labels, TOPICS.thresholds, strict=True))
        assert prediction.labels["topics"] == [label for label in topics if topics[label] >= tuned[label]]


def test_logits_of_ids_are_the_logits_of_their_texts(toy_predictor, toy_texts):
    encoding = toy_predictor.tokenizer.encode(toy_texts, toy_predictor.config.max_length)
    for name, values in toy_predictor.logits_of_ids(encoding).items():
        np.testing.assert_allclose(values, toy_predictor.logits(toy_texts)[name], atol=1e-5)


def test_a_cut_text_is_marked_and_its_end_is_not_read(toy_predictor):
    room = TOY_MAX_LENGTH - 2
    fits, longer = " ".join(["w1"] * room), " ".join(["w1"] * room + ["w2"])
    first, second = toy_predictor.predict([fits, longer])
    assert (first.truncated, second.truncated) == (False, True)
    assert first.probabilities == second.probabilities


def test_no_texts_give_no_predictions_and_an_empty_text_gives_one(toy_predictor):
    assert toy_predictor.predict([]) == []
    assert toy_predictor.logits([])["topics"].shape == (0, 4)
    (empty,) = toy_predictor.predict([""])
    assert empty.labels["domain"] in DOMAIN.labels
    assert not empty.truncated


def test_a_subset_of_tasks_gives_the_same_answers_for_them(onnx_predictor, toy_texts):
    every = onnx_predictor.predict(toy_texts)
    some = onnx_predictor.predict(toy_texts, tasks=["topics"])
    assert [one.labels for one in some] == [{"topics": one.labels["topics"]} for one in every]


def test_given_thresholds_replace_the_tuned_ones(onnx_predictor, toy_texts):
    everything = onnx_predictor.predict(toy_texts, thresholds={"topics": 0.0})
    assert all(one.labels["topics"] == list(TOPICS.labels) for one in everything)
    partly = onnx_predictor.predict(toy_texts, thresholds={"topics": {"app": 0.0}})
    for changed, tuned in zip(partly, onnx_predictor.predict(toy_texts), strict=True):
        assert changed.labels["topics"] == [one for one in tuned.labels["topics"] if one != "app"] + ["app"]


@pytest.mark.parametrize(
    ("thresholds", "told"),
    [
        ({"topics": 1.5}, "from 0 to 1"),
        ({"topics": {"app": -0.1}}, "from 0 to 1"),
        ({"topics": float("nan")}, "from 0 to 1"),
        ({"topics": {"nobody": 0.5}}, "price, speed, staff, app"),
        ({"domain": 0.5}, "topics"),
        ({"weather": 0.5}, "domain, topics"),
    ],
)
def test_a_wrong_threshold_is_refused_with_what_is_allowed(onnx_predictor, thresholds, told):
    with pytest.raises(InputError, match=told):
        onnx_predictor.predict(["w1"], thresholds=thresholds)


def test_an_unknown_task_is_refused_with_the_tasks_there_are(onnx_predictor):
    with pytest.raises(InputError, match=r"no task 'weather'[\s\S]*domain, topics"):
        onnx_predictor.predict(["w1"], tasks=["domain", "weather"])
    with pytest.raises(InputError, match="list of task names"):
        onnx_predictor.predict(["w1"], tasks="domain")


def test_a_document_that_is_no_text_is_named_by_its_row(onnx_predictor):
    with pytest.raises(InputError, match="row 3: a document is NoneType"):
        onnx_predictor.predict(["w1", "w2", None])
    with pytest.raises(InputError, match=r"predict\(\[text\]\)"):
        onnx_predictor.predict("w1 w2")


def test_logits_that_are_not_numbers_are_never_answered(tmp_path):
    graph = toy_graph(TOY_TASKS)
    table = next(tensor for tensor in graph.graph.initializer if tensor.name == "head_topics")
    table.raw_data = np.full((8, 4), np.nan, np.float32).tobytes()
    predictor = Predictor.open(write_toy_folder(tmp_path / "nan", "onnxruntime", graph=graph))
    with pytest.raises(InputError, match="key 'topics': the model gives logits that are not numbers"):
        predictor.predict(["w1"])


@pytest.mark.parametrize("options", [{"threads": 0}, {"token_budget": 0}])
def test_options_out_of_range_are_refused(toy_folders, options):
    with pytest.raises(InputError, match="must be at least 1"):
        Predictor.open(toy_folders["onnxruntime"], **options)


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        Predictor.open(tmp_path)


def test_the_torch_runtime_refuses_options_it_would_ignore(tmp_path):
    folder = write_toy_folder(tmp_path / "torch", "torch")
    with pytest.raises(InputError, match="threads are no option of the torch runtime"):
        Predictor.open(folder, threads=2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_predicting_without_torch_imports_no_training_library_and_no_telemetry(toy_folders, runtime):
    script = (
        "import sys; from polyfold.predictor import Predictor; import polyfold.bulk\n"
        f"assert len(Predictor.open({str(toy_folders[runtime])!r}).predict(['w1', 'w2'])) == 2\n"
        f"assert {runtime!r} in sys.modules\n"
        "heavy = ('torch', 'transformers', 'accelerate', 'nncf', 'datasets', 'openvino_telemetry')\n"
        "print([name for name in heavy if sys.modules.get(name) is not None])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
