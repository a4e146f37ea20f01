"""The step that quantizes without training: every mode leaves a finished model that says what it is."""

import json

import numpy as np
import pytest
from pydantic import ValidationError

from polyfold.artifact import Artifact, Stage, read_config
from polyfold.compress.calibration import Calibration
from polyfold.compress.int8_ptq import Int8Ptq
from polyfold.compress.sensitivity import Sensitivity
from polyfold.compress.smooth_quant import SmoothQuant
from polyfold.compress.step import compress, quantizes
from polyfold.export import OnnxRuntimeExport, export
from polyfold.model.classifier import load_model
from polyfold.predictor import Predictor

FEW = Calibration(documents=16)


@pytest.fixture(scope="module", params=["transformer", "convolutional"])
def source(request, torch_toys):
    """A finished fp32 toy model."""
    folder = torch_toys[request.param]["folders"]["fp32"]["torch"]
    done = (folder / "manifest.json").exists()
    return Artifact.open(folder) if done else Stage("teacher", "teacher", 1, {}).finish(folder, {})


def apply(spec, source, data, folder):
    folder.mkdir(parents=True)
    told = compress(spec, source, data, folder, 0, None)
    return told, Stage(spec.kind, "step", 1, {}).finish(folder, told)


@pytest.mark.parametrize(
    "settings,precision",
    [
        ({"mode": "static"}, "int8"),
        ({"mode": "static", "layout": "tensorrt", "smooth_quant": SmoothQuant()}, "int8"),
        ({"mode": "dynamic"}, "int8-dynamic"),
        ({"mode": "weight_only"}, "int8-weights"),
    ],
)
def test_every_mode_is_saved_and_exported_as_what_it_computes(settings, precision, source, toy_data, tmp_path):
    spec = Int8Ptq(calibration=FEW, **settings)
    assert quantizes(spec)
    told, made = apply(spec, source, toy_data, tmp_path / "step-0")
    assert told == {}
    assert read_config(made.path)[0].precision == precision
    model = load_model(made.path)
    export(OnnxRuntimeExport(), model, made.path, tmp_path / "onnx")
    assert read_config(tmp_path / "onnx")[0].precision == precision
    texts = toy_data.test.texts
    exact, fake, found = (Predictor.open(one).logits(texts) for one in (source.path, made.path, tmp_path / "onnx"))
    for name, values in fake.items():
        assert 0 < np.abs(values - exact[name]).max() <= 0.2 * np.abs(exact[name]).max()
        assert np.median(np.abs(found[name] - values)) < 1e-4


def test_the_table_of_a_step_lies_in_its_folder_and_is_told(source, toy_data, tmp_path):
    spec = Int8Ptq(calibration=FEW, keep=("heads",), sensitivity=Sensitivity(documents=8))
    told, made = apply(spec, source, toy_data, tmp_path / "step-0")
    assert told["sensitivity"] == json.loads((made.path / "sensitivity.json").read_bytes())
    assert told["sensitivity"]["kept"] == ["heads"]
    assert "sensitivity.svg" in made.manifest.files
    saved = json.loads((made.path / "quantizers.json").read_bytes())["compression_state"]
    assert not [name for one in saved for name in one["hook_names_in_model"] if "./linear/" in name]


def test_a_name_that_no_layer_has_is_warned_of(source, toy_data, tmp_path, capsys):
    apply(Int8Ptq(calibration=FEW, keep=("heads", "no_such")), source, toy_data, tmp_path / "step-0")
    said = capsys.readouterr().err
    assert "no layer is named 'no_such'" in said and "'heads'" not in said


@pytest.mark.parametrize(
    "settings,reason",
    [
        ({"mode": "dynamic", "layout": "tensorrt"}, "layout tensorrt is for static ranges"),
        ({"mode": "weight_only", "smooth_quant": {}}, "smooth_quant helps to quantize activations"),
        ({"calibration": {"method": "percentile", "percentile": 30}}, "greater than 50"),
        ({"calibration": {"method": "magic"}}, "min_max"),
        ({"smooth_quant": {"alpha": 1.5}}, "less than or equal to 1"),
        ({"sensitivity": {"loss_budget_percent": -1}}, "greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        Int8Ptq.model_validate(settings)
