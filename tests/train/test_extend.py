"""A finished model learns a task or a language, and stays what it was where it should."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_fit import BATCHES, state

from polyfold.artifact import Stage
from polyfold.data.batches import encode
from polyfold.data.dataset import Dataset
from polyfold.errors import InputError
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model.classifier import load_model, save_model
from polyfold.tasks import NOT_LABELLED
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import calibrated, dev_scores, macro_f1, predict_logits
from polyfold.train.extend import ExtendSpec, check_extension, extend
from polyfold.train.fit import FitContext, FitSpec, fit
from polyfold.train.objectives import TaskObjective
from toys_torch import MAX_LENGTH, TASKS, toy_documents, toy_model

DOMAIN, SENTIMENT, TOPICS = TASKS
OLD = (TOPICS, DOMAIN)
SPEED = {"learning_rate": 0.01, "head_dropout": 0.0, "precision": "fp32", "batch": BATCHES.model_copy(
    update={"documents_per_step": 32, "token_budget": 2048}
)}  # fmt: skip


def dataset(tasks, languages=("en", "de", "ja"), count=600):
    """Documents in some languages with labels for some tasks."""

    def part(count, seed):
        whole = toy_documents(count, seed, missing=0.1)
        chosen = whole.take(np.flatnonzero(np.isin(np.asarray(whole.languages), languages)))
        return replace(chosen, labels={task.name: chosen.labels[task.name] for task in tasks})

    whole = part(12, 9)
    unlabelled = whole.take(np.arange(len(whole)))
    return Dataset(tasks, part(count, 6), part(count // 2, 7), part(count, 8), unlabelled, "f" * 64, MAX_LENGTH)


def spec(**changes):
    return ExtendSpec(**{"fit": FitSpec(epochs=4, **SPEED), **changes})


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """A model that knows two tasks in English and German, with temperatures and thresholds of its own."""
    root = tmp_path_factory.mktemp("old")
    data = dataset(OLD, ("en", "de"))
    model = toy_model(root / "source", tasks=OLD)
    tokenizer = open_tokenizer(root / "source", model.backbone.tokenizer)
    train, dev = (encode(one, tokenizer, MAX_LENGTH) for one in (data.train, data.dev))
    objective = TaskObjective(OLD, (LabelLoss(),), data.train)
    context = FitContext(root, 0, "old", dev_scores(OLD, dev, "old"))
    fit(model.classifier, train, objective, FitSpec(epochs=10, **SPEED), None, context)
    model = calibrated(replace(model, backbone=replace(model.backbone, weights="trained")), dev, "old")

    def build(folder):
        save_model(model, folder, root / "source")
        return {}

    return Stage("student", "old", 1, {}).run(root, build)


def run(spec, old, data, folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    return extend(spec, old, data, folder, folder / "cache", seed), load_model(folder)


def answers(model, source, documents):
    tokenizer = open_tokenizer(source, model.backbone.tokenizer)
    return predict_logits(model.classifier, model.tasks, encode(documents, tokenizer, MAX_LENGTH), "test")


def test_a_frozen_extension_learns_a_head_and_changes_nothing_else_by_a_bit(old, tmp_path):
    data = dataset((SENTIMENT,))
    done, grown = run(spec(freeze=True, fit=FitSpec(epochs=6, **SPEED)), old, data, tmp_path / "grown")
    before = load_model(old.path)
    assert [task.name for task in grown.tasks] == ["topics", "domain", "sentiment"]
    assert grown.tasks[:2] == before.tasks
    kept = {name: value for name, value in state(grown).items() if not name.startswith("heads.sentiment.")}
    was = state(before)
    assert kept.keys() == was.keys()
    assert all(torch.equal(kept[name], was[name]) for name in was)
    first, second = answers(before, old.path, data.test), answers(grown, tmp_path / "grown", data.test)
    for task in OLD:
        assert np.array_equal(first[task.name], second[task.name])
    assert done.kept == {task.name: (len(data.dev), 0) for task in OLD}
    assert not (tmp_path / "grown" / "cache").exists()


def test_a_new_task_is_learned_and_old_answers_stay(old, tmp_path):
    data = dataset((SENTIMENT,))
    longer = spec(keep=LogitLoss(on="all", weight=6.0), fit=FitSpec(epochs=8, **SPEED))
    done, grown = run(longer, old, data, tmp_path / "grown")
    assert done.new_tasks == ("sentiment",)
    scores = macro_f1(grown.tasks[2:], data.test, answers(grown, tmp_path / "grown", data.test))
    assert scores["sentiment"] > 0.9
    assert grown.tasks[:2] == load_model(old.path).tasks
    assert grown.tasks[2].temperature != 1.0
    for documents, flipped in done.kept.values():
        assert documents == len(data.dev)
        assert flipped <= 0.15 * documents
    # The encoder has learned as well: it is no frozen extension.
    assert not torch.equal(state(grown)["heads.domain.weight"], state(load_model(old.path))["heads.domain.weight"])


def test_without_the_old_answers_more_of_them_change(old, tmp_path):
    data = dataset((SENTIMENT,))
    loose = spec(keep=LogitLoss(on="all", weight=0.0), fit=FitSpec(epochs=4, **{**SPEED, "learning_rate": 0.03}))
    held = loose.model_copy(update={"keep": LogitLoss(on="all", weight=8.0)})
    flips = {}
    for name, one in (("loose", loose), ("held", held)):
        done, _ = run(one, old, data, tmp_path / name)
        flips[name] = sum(flipped for _, flipped in done.kept.values())
    assert flips["held"] < flips["loose"]


def test_a_new_language_is_learned_and_the_others_stay(old, tmp_path):
    # Labels may stand in another order in the data, and labels of old languages are not looked at.
    turned = DOMAIN.model_copy(update={"labels": DOMAIN.labels[::-1]})
    data = dataset((DOMAIN,))
    for one in (data.train, data.dev, data.test):
        values = one.labels["domain"]
        one.labels["domain"][:] = np.where(values == NOT_LABELLED, NOT_LABELLED, 2 - values)
        wrong = np.asarray(one.languages) != "ja"
        one.labels["domain"][wrong] = np.where(values[wrong] == NOT_LABELLED, NOT_LABELLED, 0)
    data = replace(data, tasks=(turned,))
    japanese = data.test.take(np.flatnonzero(np.asarray(data.test.languages) == "ja"))
    right = replace(japanese, labels={"domain": np.where(
        japanese.labels["domain"] == NOT_LABELLED, NOT_LABELLED, 2 - japanese.labels["domain"]
    )})  # fmt: skip
    before = load_model(old.path)
    was = macro_f1(before.tasks[1:], right, answers(before, old.path, right))["domain"]
    slow = spec(new_languages=("ja",), fit=FitSpec(epochs=8, **SPEED), keep=LogitLoss(on="all", weight=2.0))
    done, grown = run(slow, old, data, tmp_path / "grown")
    now = macro_f1(grown.tasks[1:], right, answers(grown, tmp_path / "grown", right))["domain"]
    assert now > max(0.85, was + 0.2)
    known = sum(language != "ja" for language in data.dev.languages)
    for documents, flipped in done.kept.values():
        assert documents == known
        assert flipped <= 0.15 * known
    assert done.new_tasks == ()


def test_old_answers_on_unlabelled_texts_are_kept_too(old, tmp_path):
    data = dataset((SENTIMENT,), count=20)
    one = spec(unlabelled=True, fit=FitSpec(epochs=1, **SPEED))
    run(one, old, data, tmp_path / "grown")
    (cache,) = (tmp_path / "grown" / "cache").glob("*.arrow")
    import pyarrow as pa

    assert pa.ipc.open_file(pa.memory_map(str(cache))).read_all().num_rows == len(data.train) + len(
        data.unlabelled
    )


def test_what_cannot_be_is_refused_before_training(old, tmp_path):
    more = DOMAIN.model_copy(update={"labels": (*DOMAIN.labels, "returns")})
    other = DOMAIN.model_copy(update={"kind": "multi_label"})
    topics = dataset((SENTIMENT,), count=20)
    foreign = dataset((SENTIMENT,), ("ja",), count=20)
    cases = [
        (
            spec(),
            replace(dataset((DOMAIN,), count=20), tasks=(more,)),
            "labels that the model does not know: returns",
        ),
        (
            spec(),
            replace(dataset((DOMAIN,), count=20), tasks=(other,)),
            "single_label in the model and multi_label",
        ),
        (spec(), dataset((DOMAIN,), count=20), "nothing new to learn"),
        (spec(new_languages=("fi",)), topics, "no training document is in 'fi'"),
        (spec(new_languages=("ja",), freeze=True), topics, "a frozen model cannot learn a language"),
        (spec(new_languages=("ja",)), foreign, "no dev document is in a language that the model knows"),
    ]
    for one, data, said in cases:
        with pytest.raises(InputError, match=said):
            check_extension(one, old, data)
    with pytest.raises(ValueError, match="on: all"):
        ExtendSpec(keep=LogitLoss())


@pytest.mark.parametrize(
    "changes,said",
    [
        ({"runtime": "openvino"}, "exported to 'openvino' cannot be trained on"),
        ({"precision": "int8"}, "quantize that again"),
        ({"weights": "random"}, "nothing to keep"),
    ],
)
def test_an_artifact_that_cannot_be_trained_on_is_refused(old, tmp_path, changes, said):
    import json
    import shutil

    from polyfold.artifact import Artifact

    shutil.copytree(old.path, tmp_path / "copy")
    path = tmp_path / "copy" / "config.json"
    content = json.loads(path.read_text())
    content["polyfold"].update(changes)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=said):
        check_extension(spec(), Artifact.open(tmp_path / "copy"), dataset((SENTIMENT,), count=20))
