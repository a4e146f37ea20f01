"""The laws of a compression step as a stage: what it leaves is a finished, calibrated, smaller model."""

import numpy as np
import pytest
from nncf.torch.quantization.layers import AsymmetricQuantizer, SQMultiply

from polyfold.artifact import Artifact, Stage, read_config
from polyfold.compress.bench import Bench
from polyfold.compress.calibration import Calibration
from polyfold.compress.int8_qat import Int8Qat
from polyfold.compress.smooth_quant import SmoothQuant
from polyfold.compress.step import compress, model_precision
from polyfold.export import OnnxRuntimeExport, export
from polyfold.losses.labels import LabelLoss
from polyfold.model.classifier import load_model
from polyfold.model.quantized import HOOKS, QUANTIZERS_FILE
from polyfold.model.trimming import TrimVocabulary
from polyfold.predictor import Predictor
from polyfold.text import open_tokenizer
from polyfold.train.evaluate import calibrate, predict_logits
from polyfold.train.fit import FitSpec

CALIBRATED = Int8Qat(calibration=Calibration(documents=16), fit=FitSpec(epochs=0))


def finished(folder):
    """A toy model's folder with the manifest that a stage would have left."""
    done = (folder / "manifest.json").exists()
    return Artifact.open(folder) if done else Stage("teacher", "teacher", 1, {}).finish(folder, {})


@pytest.fixture(scope="module", params=["transformer", "convolutional"])
def source(request, torch_toys):
    """A finished fp32 toy model."""
    return finished(torch_toys[request.param]["folders"]["fp32"]["torch"])


def apply(spec, source, data, folder, seed=0, teach=None):
    folder.mkdir(parents=True)
    told = compress(spec, source, data, folder, seed, teach)
    return told, Stage(spec.kind, "step", 1, {}).finish(folder, told)


def refuse(documents):
    raise AssertionError("nobody is taught in a step without epochs")


def test_trimming_keeps_the_logits_of_every_text_whose_pieces_are_kept(source, toy_data, tmp_path):
    told, trimmed = apply(TrimVocabulary(coverage=1.0), source, toy_data, tmp_path / "step-0")
    assert told["pieces_after"] < told["pieces_before"]
    before, after = Predictor.open(source.path), Predictor.open(trimmed.path)
    texts = toy_data.train.texts
    expected = before.logits(texts)
    for name, values in after.logits(texts).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)
    assert after.tokenizer.vocabulary_size == told["pieces_after"] < before.tokenizer.vocabulary_size
    assert after.config.trunk_parameters == before.config.trunk_parameters
    assert after.config.parameters < before.config.parameters
    assert model_precision(trimmed) == "fp32"


def test_a_step_leaves_its_source_as_it_was(source, toy_data, tmp_path):
    apply(TrimVocabulary(size=150), source, toy_data, tmp_path / "step-0")
    source.verify()


def test_the_result_is_calibrated_on_dev_again(source, toy_data, tmp_path):
    _, trimmed = apply(TrimVocabulary(coverage=0.8, keep_characters=False), source, toy_data, tmp_path / "step-0")
    model = load_model(trimmed.path)
    bench = Bench(toy_data, trimmed.path, trimmed.path, 0, "step", None)
    dev = bench.encode(model, toy_data.dev)
    logits = predict_logits(model.classifier, model.tasks, dev, "dev")
    assert calibrate(toy_data.tasks, toy_data.dev, logits) == model.tasks
    assert model.tasks != read_config(source.path)[1]


@pytest.fixture(scope="module")
def quantized(source, toy_data, tmp_path_factory):
    """The source after post-training quantization, and what the step said."""
    told, artifact = apply(CALIBRATED, source, toy_data, tmp_path_factory.mktemp("int8") / "step-0", teach=refuse)
    assert told == {}
    return artifact


def test_post_training_quantization_asks_no_teacher_and_trains_nothing(source, quantized, toy_data):
    assert model_precision(quantized) == "int8"
    assert (quantized.path / QUANTIZERS_FILE).exists()
    assert not list(quantized.path.rglob("metrics.jsonl"))
    assert any(HOOKS in name for name in load_model(quantized.path).classifier.state_dict())
    # The quantizers' ranges are no parameters of the model.
    assert read_config(quantized.path)[0].parameters == read_config(source.path)[0].parameters
    expected = Predictor.open(source.path).logits(toy_data.test.texts)
    for name, values in Predictor.open(quantized.path).logits(toy_data.test.texts).items():
        assert 0 < np.abs(values - expected[name]).max() <= 0.2 * np.abs(expected[name]).max()


def test_the_seed_decides_the_calibration(torch_toys, toy_data, tmp_path):
    source = finished(torch_toys["convolutional"]["folders"]["fp32"]["torch"])

    def weights(seed, name):
        return (
            apply(CALIBRATED, source, toy_data, tmp_path / name, seed)[1].path / "model.safetensors"
        ).read_bytes()

    assert weights(0, "step-0") == weights(0, "step-1") != weights(1, "step-2")


def test_quantization_aware_training_says_its_dev_score_and_moves_the_weights(
    source, quantized, toy_data, tmp_path
):
    spec = Int8Qat(calibration=Calibration(documents=16), fit=FitSpec(epochs=1, learning_rate=1e-3))
    # Without a teacher the distillation loss is left out.
    told, trained = apply(spec, source, toy_data, tmp_path / "step-1")
    assert 0 < told["dev_macro_f1"] <= 1
    before, after = (load_model(one.path).classifier.state_dict() for one in (quantized, trained))
    assert before.keys() == after.keys()
    moved = {name for name in before if not before[name].equal(after[name])}
    assert any(HOOKS in name for name in moved)
    assert any(name.startswith("heads.") for name in moved)


def test_training_with_tensorrts_quantizers_and_smoothing_keeps_both(source, toy_data, tmp_path):
    spec = Int8Qat(
        layout="tensorrt",
        smooth_quant=SmoothQuant(),
        calibration=Calibration(documents=16, method="percentile"),
        losses=(LabelLoss(),),
        fit=FitSpec(epochs=1, learning_rate=1e-3),
    )
    _, trained = apply(spec, source, toy_data, tmp_path / "step-2")
    model = load_model(trained.path)
    parts = list(model.classifier.modules())
    assert not [part for part in parts if isinstance(part, AsymmetricQuantizer)]
    smoothed = [part for part in parts if isinstance(part, SQMultiply)]
    assert len(smoothed) == (8 if model.backbone.family == "bert" else 0)
    export(OnnxRuntimeExport(), model, trained.path, tmp_path / "onnx")
    expected = Predictor.open(trained.path).logits(toy_data.test.texts)
    for name, values in Predictor.open(tmp_path / "onnx").logits(toy_data.test.texts).items():
        assert np.median(np.abs(values - expected[name])) < 1e-4


def test_the_bench_encodes_with_the_given_models_tokenizer(source, toy_data):
    model = load_model(source.path)
    bench = Bench(toy_data, source.path, source.path, 0, "step", None)
    encoded = bench.encode(model, toy_data.dev)
    tokenizer = open_tokenizer(source.path, model.backbone.tokenizer)
    own = tokenizer.encode(toy_data.dev.texts, model.max_length)
    assert [one.tolist() for one in encoded.encoding.ids] == [one.tolist() for one in own.ids]
    scores = bench.evaluate(model)(model.classifier)
    assert set(scores) == {task.name for task in toy_data.tasks}
    assert all(0 <= value <= 1 for value in scores.values())
