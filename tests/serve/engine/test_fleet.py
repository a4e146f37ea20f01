"""Models by name and version: drawn by shares, replaced while running, never half."""

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_service import Events, run

from polyfold.artifact import Stage
from polyfold.errors import InputError
from polyfold.predictor import Predictor
from polyfold.serve.engine.fleet import Fleet, Routing, drawn
from polyfold.serve.refusals import Refusal
from polyfold.serve.spec import ModelSource, ServeSpec
from toys import write_toy_folder


def finished(folder):
    """A toy folder with a manifest, as an export has one."""
    write_toy_folder(folder, "onnxruntime")
    Stage(kind="export", name="toy", version=1, spec={}).finish(folder, {})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("fleet") / "toy")


def source(folder, version="1", name="toy"):
    return ModelSource(name=name, version=version, folders=(folder,))


def soon():
    return time.monotonic() + 10


class Serving:
    """A started fleet, stopped at the end."""

    def __init__(self, *sources):
        self.events = Events()
        self.fleet = Fleet(ServeSpec(models=sources), self.events)

    async def __aenter__(self):
        await self.fleet.start()
        return self.fleet

    async def __aexit__(self, *_):
        await self.fleet.stop(5)


def test_a_served_model_answers_as_the_predictor_does(folder, toy_texts):
    async def serve():
        async with Serving(source(folder)) as fleet:
            model = fleet.pick(None, None, "id")
            return await model.submit(toy_texts, soon()).future, model.columns

    answers, columns = run(serve())
    straight = Predictor.open(folder).predict(toy_texts)
    for task in straight.tasks:
        found = answers.probabilities[:, columns[task.name]]
        np.testing.assert_allclose(found, straight.probabilities[task.name], atol=1e-5)
    np.testing.assert_array_equal(answers.truncated, straight.truncated)


@given(st.dictionaries(st.text("123", min_size=1), st.integers(1, 100), min_size=1, max_size=4))
def test_versions_are_drawn_by_their_shares_and_a_key_always_draws_the_same(weights):
    total = sum(weights.values())
    shares = {version: 100.0 * weight / total for version, weight in weights.items()}
    counts = Counter(drawn(shares, f"request-{number}") for number in range(2000))
    for version, share in shares.items():
        assert abs(counts[version] / 20 - share) < 6
        assert drawn(shares, "the same") == drawn(shares, "the same")


def test_a_new_version_takes_its_share_and_the_shadow_only_listens(folder):
    async def serve():
        async with Serving(source(folder)) as fleet:
            await fleet.load(source(folder, "2"), share=25.0)
            shares = dict(fleet.routing["toy"].shares)
            fleet.route("toy", Routing(shares={"1": 100.0}, shadow="2"))
            one = fleet.pick("toy", None, "id")
            shadow = fleet.shadow_of(one)
            return shares, one.version, shadow.version, fleet.shadow_of(shadow)

    assert run(serve()) == ({"1": 75.0, "2": 25.0}, "1", "2", None)


@pytest.mark.parametrize(
    ("routing", "reason"),
    [
        (Routing(shares={"1": 99.0}), "add up to 99"),
        (Routing(shares={"1": 150.0, "2": -50.0}), "add up"),
        (Routing(shares={"3": 100.0}), "'3' is not loaded"),
        (Routing(shares={"1": 100.0}, shadow="3"), "'3' is not loaded"),
    ],
)
def test_impossible_routings_are_refused_and_change_nothing(folder, routing, reason):
    async def serve():
        async with Serving(source(folder), source(folder, "2")) as fleet:
            before = fleet.routing["toy"]
            with pytest.raises(InputError, match=reason):
                fleet.route("toy", routing)
            assert fleet.routing["toy"] == before

    run(serve())


def test_unloading_gives_the_share_to_those_that_stay_and_finishes_what_is_under_way(folder, toy_texts):
    async def serve():
        async with Serving(source(folder)) as fleet:
            await fleet.load(source(folder, "2"), share=40.0)
            leaving = fleet.pick("toy", "1", "id")
            ticket = leaving.submit(toy_texts, soon())
            await fleet.unload("toy", "1")
            answers = await ticket.future
            assert not answers.failures
            with pytest.raises(Refusal, match="no version '1'"):
                fleet.pick("toy", "1", "id")
            await fleet.unload("toy", "2")
            assert fleet.models == []
            assert not fleet.ready
            return fleet.routing

    assert run(serve()) == {}


def test_a_corrupt_model_never_takes_traffic(folder, tmp_path, toy_texts):
    corrupt = finished(tmp_path / "corrupt")
    model = corrupt / "onnx" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)

    async def serve():
        async with Serving(source(folder)) as fleet:
            serving = fleet.pick("toy", None, "id")
            for version in ("1", "2"):
                with pytest.raises(InputError, match="checksum"):
                    await fleet.load(source(corrupt, version))
            assert fleet.models == [serving]
            assert fleet.routing["toy"].shares == {"1": 100.0}
            return await fleet.pick("toy", None, "id").submit(toy_texts, soon()).future

    assert not run(serve()).failures


def test_a_model_without_checksums_is_not_loaded_while_serving(folder, tmp_path):
    bare = write_toy_folder(tmp_path / "bare", "onnxruntime")

    async def serve():
        async with Serving(source(bare)) as fleet:
            with pytest.raises(InputError, match=r"manifest\.json"):
                await fleet.load(source(bare, "2"))
            return fleet.ready

    assert run(serve())


def test_replacing_a_version_loses_no_request(folder, toy_texts):
    async def serve():
        async with Serving(source(folder)) as fleet:
            old = fleet.pick(None, None, "id")
            tickets = [old.submit([text], soon()) for text in toy_texts]
            await fleet.load(source(folder))
            new = fleet.pick(None, None, "id")
            tickets += [new.submit([text], soon()) for text in toy_texts]
            answers = [await ticket.future for ticket in tickets]
            assert old is not new
            return [one.failures for one in answers]

    assert run(serve()) == [{}] * 120


def test_requests_are_refused_before_the_start_and_after_the_stop(folder):
    async def serve():
        serving = Serving(source(folder))
        with pytest.raises(Refusal, match="still being loaded"):
            serving.fleet.pick(None, None, "id")
        async with serving as fleet:
            model = fleet.pick(None, None, "id")
        assert (model.state, fleet.ready) == ("stopped", False)
        with pytest.raises(Refusal, match="being stopped"):
            fleet.pick(None, None, "id")
        with pytest.raises(Refusal, match="out of service"):
            model.submit(["late"], soon())

    run(serve())


def test_which_model_is_meant_must_be_clear(folder):
    async def serve():
        async with Serving(source(folder), source(folder, name="other")) as fleet:
            assert fleet.pick("other", None, "id").name == "other"
            for name, version, reason in (
                (None, None, "none was named"),
                ("third", None, "no model 'third'"),
                ("toy", "9", "no version '9'"),
            ):
                with pytest.raises(Refusal, match=reason):
                    fleet.pick(name, version, "id")

    run(serve())


@pytest.mark.parametrize(
    ("given", "name", "version", "folders"),
    [
        ("a=/x", "a", "1", ["/x"]),
        ("a@7=/x,/y", "a", "7", ["/x", "/y"]),
        ("/runs/medium.trim.openvino-00ff", "medium", "1", ["/runs/medium.trim.openvino-00ff"]),
    ],
)
def test_model_sources_are_read_as_they_are_written(given, name, version, folders):
    found = ModelSource.parse(given)
    assert (found.name, found.version, [str(one) for one in found.folders]) == (name, version, folders)


@pytest.mark.parametrize("given", ["", "a=", "=", ",", "a@=,"])
def test_sources_that_name_nothing_are_refused(given):
    with pytest.raises(InputError):
        ModelSource.parse(given)
