"""The laws of the pruning step: dense, as small as was asked for, the same after a kill, at home in the chain."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from polyfold.artifact import Artifact, Stage
from polyfold.compress.bench import Bench
from polyfold.compress.prune import prune
from polyfold.compress.prune_spec import KeepLayers, Prune
from polyfold.compress.step import compress
from polyfold.errors import InputError
from polyfold.export import OnnxRuntimeExport, export
from polyfold.losses.labels import LabelLoss
from polyfold.losses.logits import LogitLoss
from polyfold.model import structure
from polyfold.model.backbone import token_embedding
from polyfold.model.classifier import load_model, save_model
from polyfold.model.structure import cost
from polyfold.model.trimming import TrimVocabulary
from polyfold.predictor import Predictor
from polyfold.text import pad
from polyfold.train.fit import FitSpec
from polyfold.train.teachers import ModelTeacher
from toys_pipeline import convolutional_model, quantized_toy, transformer_model

NO_FIT = FitSpec(epochs=0)
BUILD = {"transformer": transformer_model, "convolutional": convolutional_model}
TARGETS = {"transformer": {"heads": 0.5, "feed_forward": 0.5}, "convolutional": {"branch_width": 0.5}}
INNER = {"transformer": "feed_forward", "convolutional": "branch_width"}


@pytest.fixture(scope="module", params=list(BUILD))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def source(kind, tmp_path_factory):
    """A finished fp32 model."""
    folder = tmp_path_factory.mktemp("source")
    save_model(BUILD[kind](folder), folder, folder)
    return Stage("teacher", "teacher", 1, {}).finish(folder, {})


@pytest.fixture
def bench(source, toy_data, tmp_path):
    """Work in a folder of its own, taught by another model of the same kind."""
    return bench_at(source, toy_data, tmp_path / "step-0")


def bench_at(source, data, folder, teach=None):
    folder.mkdir(parents=True)
    if teach is None:
        guide = load_model(source.path)

        def teach(documents, wanted=frozenset()):
            return ModelTeacher(
                guide, Bench(data, source.path, folder, 0, "", None).encode(guide, documents), wanted
            )

    return Bench(data, source.path, folder, 0, "step", teach)


def run(bench, **settings):
    settings = {"recover": NO_FIT, "seq": 16, "documents": 16, "multiple_of": 1, **settings}
    return prune(Prune(**settings), load_model(bench.source), bench)


def logits(model, bench):
    encoded = bench.encode(model, bench.data.test)
    ids, mask = pad(list(encoded.encoding.ids), encoded.pad_id)
    with torch.no_grad():
        found = model.classifier.eval()(torch.from_numpy(ids), torch.from_numpy(mask)).logits
    return torch.cat(list(found.values()), dim=1)


def state(model):
    return {name: value.clone() for name, value in model.classifier.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_a_share_is_what_stays_and_what_was_told_is_what_there_is(bench, kind):
    before = load_model(bench.source)
    result, told = run(bench, target=TARGETS[kind])
    for target, share in TARGETS[kind].items():
        left, of = sum(told["units_after"][target]), sum(told["units_before"][target])
        assert left == round(of * share)
    after = cost(result.backbone, 16, {})
    assert (told["flops_after"], told["parameters_after"]) == (after.flops, after.parameters)
    assert told["flops_after"] < told["flops_before"] == cost(before.backbone, 16, {}).flops
    assert result.parameters < before.parameters
    # No masks, no gates, no buffers: nothing but the dense weights is left.
    assert not list(result.classifier.buffers()) or kind == "transformer"
    assert sum(value.numel() for value in result.classifier.parameters()) == result.parameters


@pytest.mark.parametrize("measure", ["flops", "parameters"])
def test_a_budget_is_met_with_every_importance_and_they_differ(bench, kind, measure):
    kept = {}
    for importance in ("taylor", "magnitude", "random"):
        place = replace(bench, folder=bench.folder / importance)
        result, told = run(place, budget={measure: 0.8, "targets": [INNER[kind]]}, importance=importance)
        left, of = told[f"{measure}_after"], told[f"{measure}_before"]
        group = next(one for one in structure.groups(result.backbone, 16) if one.target == INNER[kind])
        unit = group.flops_per_unit if measure == "flops" else group.parameters_per_unit
        assert 0.8 * of - 1.5 * unit <= left <= 0.8 * of
        kept[importance] = [file.read_text() for file in sorted((place.folder / "checkpoints").iterdir())]
    assert len({str(files) for files in kept.values()}) == 3


def test_even_layers_stay_alike_and_are_a_stock_encoder(bench, kind):
    result, told = run(bench, target={INNER[kind]: 0.6}, even=True, multiple_of=4)
    assert len(set(told["units_after"][INNER[kind]])) == 1
    assert told["units_after"][INNER[kind]][0] % 4 == 0
    if kind == "transformer":
        assert result.backbone.family == "bert"
    else:
        assert result.backbone.config["branch_widths"] is None


def test_one_round_without_recovery_is_one_cut_and_more_rounds_reach_the_same_size(bench, kind, toy_data, source):
    once, told = run(bench, target=TARGETS[kind], importance="magnitude")
    _, retold = run(
        bench_at(source, toy_data, bench.folder / "more"), target=TARGETS[kind], importance="magnitude",
        schedule={"rounds": 3},
    )  # fmt: skip
    assert {name: sum(units) for name, units in retold["units_after"].items()} == {
        name: sum(units) for name, units in told["units_after"].items()
    }
    (choice,) = sorted((bench.folder / "checkpoints").iterdir())
    assert choice.name == "round-1.json"
    assert len(list((bench.folder / "more" / "checkpoints").iterdir())) == 3
    assert told["dev_macro_f1"] == retold["dev_macro_f1"] == []
    # What was not cut is what it was.
    before = state(load_model(bench.source))
    kept = {name: value for name, value in state(once).items() if value.shape == before[name].shape}
    assert kept and all(value.equal(before[name]) for name, value in kept.items())


def test_layers_are_kept_by_number_evenly_or_by_importance(bench, kind, source, toy_data):
    outer, inner = ("layers", "heads") if kind == "transformer" else ("branches", "branch_width")
    whole = load_model(source.path)
    group = next(one for one in structure.groups(whole.backbone, 16) if one.target == outer)
    result, told = run(bench, layers={"keep": [1]})
    assert told["units_after"][outer] == [1] and len(told["units_after"][inner]) == 1
    expected = structure.cut(whole, {group.key: np.array([1])})
    assert torch.equal(logits(result, bench), logits(expected, bench))
    for number, layers in enumerate(({"count": 1}, {"count": 1, "choose": "evenly"})):
        place = bench_at(source, toy_data, bench.folder / str(number))
        _, told = run(place, layers=layers, target={inner: 0.5})
        assert told["units_after"][outer] == [1]
        assert told["units_after"][inner][0] == told["units_before"][inner][0] // 2


def test_evenly_means_first_last_and_between():
    assert KeepLayers(count=3, choose="evenly").numbers(12).tolist() == [0, 6, 11]
    assert KeepLayers(count=12, choose="evenly").numbers(12).tolist() == list(range(12))
    assert KeepLayers(count=1, choose="evenly").numbers(6).tolist() == [0]
    assert KeepLayers(count=2).numbers(6) is None


FIT = FitSpec(epochs=2, learning_rate=1e-3, checkpoint_minutes=0.0, batch={"documents_per_step": 12})


def test_recovery_trains_after_every_round_and_a_killed_one_goes_on_as_if_nothing_had_been(
    bench, kind, source, toy_data
):
    calls, dies = [0], [10**6]

    def teach(documents, wanted=frozenset()):
        inner = bench.teach(documents, wanted)

        class Mortal:
            guide = None

            def __call__(self, batch):
                calls[0] += 1
                if calls[0] > dies[0]:
                    raise KeyboardInterrupt
                return inner(batch)

        return Mortal()

    settings = {"target": TARGETS[kind], "schedule": {"rounds": 2}, "recover": FIT}
    whole, told = run(bench_at(source, toy_data, bench.folder / "whole", teach), **settings)
    assert len(told["dev_macro_f1"]) == 2
    assert (bench.folder / "whole" / "round-2" / "metrics.jsonl").exists()
    assert not list((bench.folder / "whole").glob("round-*/checkpoints"))
    total, calls[0], dies[0] = calls[0], 0, calls[0] - 3
    killed = bench_at(source, toy_data, bench.folder / "killed", teach)
    with pytest.raises(KeyboardInterrupt):
        run(killed, **settings)
    calls[0], dies[0] = 0, 10**6
    again, retold = run(killed, **settings)
    assert 0 < calls[0] < total / 2
    assert same(state(again), state(whole))
    assert retold == told


def test_without_a_teacher_the_units_matter_to_the_labels_alone(bench, kind):
    result, told = run(replace(bench, teach=None), target=TARGETS[kind], recover=FIT)
    assert len(told["dev_macro_f1"]) == 1
    assert result.parameters < load_model(bench.source).parameters


def test_layerwise_losses_recover_too(bench, kind):
    losses = [{"kind": "sentence"}, {"kind": "logits", "on": "all"}]
    if kind == "transformer":
        losses.append({"kind": "hidden_states", "layers": "last"})
    _, told = run(bench, target={INNER[kind]: 0.5}, losses=losses, recover=FIT.model_copy(update={"epochs": 1}))
    assert len(told["dev_macro_f1"]) == 1


def apply(spec, source, data, folder):
    folder.mkdir(parents=True)
    told = compress(spec, source, data, folder, 0, None)
    return Stage(spec.kind, "step", 1, {}).finish(folder, told)


def prune_spec(kind):
    return Prune(
        target=TARGETS[kind], importance="magnitude", multiple_of=1, recover=NO_FIT, losses=(LabelLoss(),)
    )


def test_trimmed_then_pruned_is_pruned_then_trimmed(kind, source, toy_data, tmp_path):
    trim, cut = TrimVocabulary(coverage=1.0), prune_spec(kind)
    one = apply(cut, apply(trim, source, toy_data, tmp_path / "a-0"), toy_data, tmp_path / "b-0")
    other = apply(trim, apply(cut, source, toy_data, tmp_path / "c-0"), toy_data, tmp_path / "d-0")
    texts = toy_data.train.texts
    expected = Predictor.open(other.path).logits(texts)
    for name, values in Predictor.open(one.path).logits(texts).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)
    assert one.config()[0].parameters == other.config()[0].parameters


def test_a_pruned_and_factorized_model_is_trimmed_saved_and_exported_with_the_same_logits(
    kind, source, toy_data, tmp_path
):
    target = {**TARGETS[kind], "embedding_rank": 0.5}
    spec = Prune(target=target, documents=16, multiple_of=1, recover=NO_FIT, losses=(LabelLoss(),))
    pruned = apply(spec, source, toy_data, tmp_path / "a-0")
    trimmed = apply(TrimVocabulary(coverage=1.0), pruned, toy_data, tmp_path / "b-0")
    assert trimmed.config()[0].parameters < pruned.config()[0].parameters < source.config()[0].parameters
    texts = toy_data.train.texts
    expected = Predictor.open(pruned.path).logits(texts)
    export(OnnxRuntimeExport(), load_model(trimmed.path), trimmed.path, tmp_path / "onnx")
    for path in (trimmed.path, tmp_path / "onnx"):
        for name, values in Predictor.open(path).logits(texts).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-4)
    assert {"flops_before", "flops_after", "units_after"} <= set(Artifact.open(pruned.path).manifest.info)


def test_a_pruned_model_is_quantized_and_its_export_computes_the_same(kind, source, toy_data, tmp_path):
    target = {**TARGETS[kind], "embedding_rank": 0.5}
    spec = Prune(target=target, importance="magnitude", multiple_of=1, recover=NO_FIT, losses=(LabelLoss(),))
    pruned = apply(spec, source, toy_data, tmp_path / "a-0")
    quantized = quantized_toy(load_model(pruned.path))
    save_model(quantized, tmp_path / "int8", pruned.path)
    export(OnnxRuntimeExport(), quantized, pruned.path, tmp_path / "onnx")
    texts = toy_data.test.texts
    expected = Predictor.open(tmp_path / "int8").logits(texts)
    for name, values in Predictor.open(tmp_path / "onnx").logits(texts).items():
        assert np.abs(values - expected[name]).max() <= 0.02 * np.abs(expected[name]).max()
    # The narrow table lies there in int8.
    graph = onnx.load(tmp_path / "onnx" / "onnx" / "model_quantized.onnx").graph
    table = token_embedding(quantized.classifier.encoder)
    stored = [list(one.dims) for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert [table.num_embeddings, table.embedding_dim] in stored


# --- refusals ----------------------------------------------------------------------------------------------


def test_a_quantized_model_is_not_pruned(bench, kind):
    quantized = quantized_toy(load_model(bench.source))
    with pytest.raises(InputError, match="quantized model cannot be pruned"):
        prune(prune_spec(kind), quantized, bench)


def test_a_target_of_another_family_is_refused_with_those_there_are(bench, kind):
    wrong, right = ("branch_width", "feed_forward") if kind == "transformer" else ("heads", "branch_width")
    for settings in ({"target": {wrong: 0.5}}, {"budget": {"flops": 0.5, "targets": [wrong]}}):
        with pytest.raises(InputError, match=f"no '{wrong}'") as raised:
            run(bench, **settings)
        assert right in str(raised.value)


def test_layers_out_of_range_are_refused(bench):
    for layers in ({"keep": [0, 7]}, {"count": 9}):
        with pytest.raises(InputError, match="layer"):
            run(bench, layers=layers)


def test_a_budget_that_nothing_can_meet_is_refused_before_anything_is_trained(bench):
    def nobody(documents, wanted=frozenset()):
        raise AssertionError("nobody is asked")

    with pytest.raises(InputError, match="the least is"):
        run(replace(bench, teach=nobody), budget={"flops": 0.01})
    assert not list(bench.folder.iterdir())


@pytest.mark.parametrize(
    "settings,said",
    [
        ({}, "give `target`, `budget` or `layers`"),
        ({"target": {"heads": 0.5}, "budget": {"flops": 0.5}}, "not both"),
        ({"target": {"heads": 0.0}}, "share that stays"),
        ({"target": {"heads": 1.2}}, "share that stays"),
        ({"target": {"neurons": 0.5}}, "feed_forward"),
        ({"budget": {}}, "either `flops` or `parameters`"),
        ({"budget": {"flops": 1.5}}, "less than or equal to 1"),
        ({"layers": {}}, "either `keep`"),
        ({"layers": {"keep": [1, 1]}}, "twice"),
        ({"layers": {"count": 2}, "target": {"layers": 0.5}}, "chooses the layers already"),
        ({"target": {"heads": 0.5}, "multiple_of": 0}, "greater than or equal to 1"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_by_itself(settings, said):
    with pytest.raises(ValidationError, match=said):
        Prune(**settings)


def test_the_losses_of_the_step_are_the_distillation_loss_unless_told():
    assert Prune(target={"heads": 0.5}).losses == (LabelLoss(), LogitLoss())
