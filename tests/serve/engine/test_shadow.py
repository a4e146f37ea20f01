"""The shadow gets a copy, is compared, and can neither delay nor fail whoever it shadows."""

import numpy as np
import pytest
from toy_app import Held, ToyApp

from polyfold.serve.engine.fleet import Routing
from polyfold.serve.engine.shadow import COPIES, decided
from polyfold.tasks import Task
from toys import TOY_TASKS, toy_graph, write_toy_folder

TEXTS = [f"w{number} w{number + 7}" for number in range(40)]


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Other weights, one task that the primary lacks, and the labels of a common task in another order."""
    domain = Task(name="domain", labels=("other", "billing", "delivery"), temperature=1.5)
    tasks = (domain, TOY_TASKS[1], Task(name="tone", labels=("kind", "rude")))
    folder = tmp_path_factory.mktemp("shadow") / "toy"
    return write_toy_folder(folder, "onnxruntime", tasks, toy_graph(tasks, seed=3))


@pytest.fixture
def held():
    return Held()


@pytest.fixture
def toy(toy_folders, other, held):
    def opener(candidate):
        held_one = Held() if candidate.folder == toy_folders["onnxruntime"] else held
        return held_one(candidate)

    app = ToyApp(f"toy@1={toy_folders['onnxruntime']}", f"toy@2={other}", opener=opener)
    app.fleet.route("toy", Routing(shares={"1": 100.0}, shadow="2"))
    yield app
    held.gate.set()
    app.close()


def compared(app):
    return {seen[3]: seen[4:] for seen in app.events.seen if seen[0] == "shadowed"}


def test_labels_of_common_tasks_are_compared_by_their_names(toy):
    answer = toy.predict(texts=TEXTS).json()
    assert answer["version"] == "1"
    toy.run(toy.service.shadow.settle())
    found = compared(toy)
    assert set(found) == {"domain", "topics"}
    shadow = toy.predict(texts=TEXTS, version="2").json()["predictions"]
    for task, (agreed, disagreed) in found.items():
        same = sum(
            (one["labels"][task] == two["labels"][task])
            for one, two in zip(answer["predictions"], shadow, strict=True)
        )
        assert (agreed, disagreed) == (same, len(TEXTS) - same)
        assert 0 < same < len(TEXTS)


def test_the_answer_does_not_wait_for_the_shadow(toy, held):
    held.gate.clear()
    for number in range(3 * COPIES):
        assert toy.predict(text=TEXTS[number]).status_code == 200
    assert compared(toy) == {}
    held.gate.set()
    toy.run(toy.service.shadow.settle())
    agreed, disagreed = compared(toy)["domain"]
    assert agreed + disagreed == 1
    copies = sum(seen[0] == "shadowed" and seen[3] == "domain" for seen in toy.events.seen)
    assert copies == COPIES


def test_a_shadow_that_is_gone_or_failing_is_nobodys_trouble(toy, held):
    held.gate.clear()
    assert toy.predict(text="w1").status_code == 200
    toy.run(toy.fleet.unload("toy", "2"))
    assert toy.predict(text="w2").status_code == 200
    held.gate.set()
    toy.run(toy.service.shadow.settle())
    assert sum(compared(toy)["domain"]) == 1


def test_a_copy_that_is_refused_is_nobodys_trouble(toy):
    async def stop():
        await toy.fleet.models[1].retire(0.0)

    toy.run(stop())
    assert toy.predict(text="w1").status_code == 200
    toy.run(toy.service.shadow.settle())
    assert compared(toy) == {}


def test_what_is_decided_is_a_set_of_names():
    probabilities = np.array([[0.9, 0.1, 0.2], [0.2, 0.3, 0.5]], np.float32)
    assert decided(TOY_TASKS[0], probabilities) == [frozenset({"billing"}), frozenset({"other"})]
    many = np.array([[0.9, 0.1, 0.7, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    assert decided(TOY_TASKS[1], many) == [frozenset({"price", "staff"}), frozenset()]
