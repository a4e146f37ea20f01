"""Fixtures for the whole suite; `toys.py` builds what they hold."""

import sys

import numpy as np
import pytest

from polyfold.predictor import Predictor
from toys import WORDS, write_toy_folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What commands keep between starts goes to a folder of this session, not to the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYFOLD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def toy_folders(tmp_path_factory):
    """The same toy model as an ONNX Runtime and as an OpenVINO artifact, by runtime."""
    root = tmp_path_factory.mktemp("models")
    return {runtime: write_toy_folder(root / runtime, runtime) for runtime in ("onnxruntime", "openvino")}


@pytest.fixture(scope="session", params=["onnxruntime", "openvino"])
def toy_predictor(request, toy_folders):
    """A predictor over the toy model, on each runtime in turn."""
    return Predictor.open(toy_folders[request.param])


@pytest.fixture(scope="session")
def onnx_predictor(toy_folders):
    """A predictor over the toy model, on ONNX Runtime alone."""
    return Predictor.open(toy_folders["onnxruntime"])


@pytest.fixture(scope="session")
def toy_texts():
    """Sixty different texts of 1 to 25 words, in mixed order: some are cut at 16 tokens."""
    random = np.random.default_rng(7)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 26))) for _ in range(60)]
    assert len(set(texts)) == 60
    return texts


@pytest.fixture(scope="session")
def torch_toys(tmp_path_factory):
    """Two real toy classifiers by family: the model, its int8 form, and their exports by precision and runtime."""
    # Imported here: most tests run without torch, and half of them are about running without it.
    from toys_pipeline import convolutional_model, quantized_toy, transformer_model, write_exports

    toys = {}
    for family, build in (("transformer", transformer_model), ("convolutional", convolutional_model)):
        root = tmp_path_factory.mktemp(family)
        model = build(root / "source")
        folders = {"fp32": write_exports(root / "fp32", model, root / "source")}
        quantized = quantized_toy(model)
        folders["int8"] = write_exports(root / "int8", quantized, root / "source")
        toys[family] = {"source": root / "source", "fp32": model, "int8": quantized, "folders": folders}
    return toys


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory):
    """All of `polyfold run` once, by its own command: project folder, result folder, plan, what it said."""
    from toys_pipeline import run_toy_project

    return run_toy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture
def polyfold(monkeypatch, capfd):
    """`polyfold ARGUMENTS` in this process: exit code, standard output, standard error."""
    from polyfold import cli

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["polyfold", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capfd.readouterr()
        return left.value.code or 0, said.out, said.err

    return call
