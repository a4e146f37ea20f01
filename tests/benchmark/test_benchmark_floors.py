"""Floors: operations as counted by hand, and a roofline that only falls where there is less to do."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyfold.artifact import CONFIG
from polyfold.benchmark.floors import Floor, against_floor, precisions_of
from polyfold.benchmark.operations import count_operations
from polyfold.benchmark.peaks import measure_peaks
from polyfold.benchmark.results import Bandwidth, Operations, Peaks
from polyfold.errors import InputError
from polyfold.measure.rounds import Timing
from toys import TOY_TASKS, write_toy_folder

PEAKS = Peaks(
    threads=1,
    gigaoperations_per_second={"fp32": 100.0, "bf16": 200.0, "int8": 400.0},
    bandwidths=(
        Bandwidth(megabytes=1.0, gigabytes_per_second=80.0),
        Bandwidth(megabytes=64.0, gigabytes_per_second=20.0),
    ),
)
OPERATIONS = st.builds(
    Operations,
    fixed=st.floats(0, 1e9),
    token=st.floats(1, 1e9),
    pair=st.floats(0, 1e6),
    weight_bytes=st.integers(0, 10**9),
    source=st.just("graph"),
)
LENGTHS = st.lists(st.integers(1, 512), min_size=1, max_size=20)


def timing(rate, latency_ms):
    return Timing(
        documents_per_second=rate, documents_per_second_least=rate, documents_per_second_most=rate,
        latency_ms_p50=latency_ms, latency_ms_p99=latency_ms, documents=1, rounds=1, calls=1,
    )  # fmt: skip


@given(OPERATIONS, LENGTHS, st.integers(1, 5))
def test_more_documents_tokens_and_batches_never_take_less(operations, lengths, batches):
    floor = Floor(operations, PEAKS, ("fp32",))
    least = floor.seconds(lengths, batches)
    assert floor.seconds([*lengths, 1], batches) >= least
    assert floor.seconds([length + 1 for length in lengths], batches) >= least
    assert floor.seconds(lengths, batches + 1) >= least
    assert floor.seconds(lengths * 2, batches * 2) == pytest.approx(2 * least)


@given(OPERATIONS, LENGTHS)
def test_a_faster_precision_lowers_the_floor_and_never_below_reading_the_weights(operations, lengths):
    slow, fast = (Floor(operations, PEAKS, kinds).seconds(lengths) for kinds in (("fp32",), ("fp32", "int8")))
    assert fast <= slow
    assert fast >= operations.weight_bytes / 80e9
    assert slow <= max(4 * fast, slow)
    assert slow >= sum(operations.of(length) for length in lengths) / 100e9 * (1 - 1e-9)


def test_weights_are_read_at_the_rate_of_a_working_set_of_their_size():
    assert PEAKS.bytes_per_second(2_000_000) == 80e9
    assert PEAKS.bytes_per_second(64_000_000) == 20e9
    # Less than was measured is no slower than the least that was.
    assert PEAKS.bytes_per_second(1000) == 80e9


def test_only_what_is_computed_in_int8_counts_as_int8():
    assert precisions_of("int8", bf16=False) == ("fp32", "int8")
    assert precisions_of("int8-dynamic", bf16=True) == ("fp32", "int8", "bf16")
    assert precisions_of("int8-weights", bf16=False) == ("fp32",)
    assert precisions_of("fp32+int8-embeddings", bf16=False) == ("fp32",)


def test_a_share_is_the_floors_time_over_the_measured():
    found = against_floor(timing(50.0, 40.0), 0.1, 10, 0.02, speedup=3.0)
    assert found.floor_documents_per_second == pytest.approx(100.0)
    assert (found.share, found.latency_share) == (pytest.approx(0.5), pytest.approx(0.5))
    assert found.speedup == 3.0
    unknown = against_floor(timing(50.0, 40.0), None, 10, None)
    assert (unknown.share, unknown.latency_share, unknown.floor_latency_ms) == (None, None, None)


def test_the_operations_of_a_graph_are_those_counted_by_hand(tmp_path):
    folder = write_toy_folder(tmp_path / "toy", "onnxruntime")
    found = count_operations(folder)
    # One product a head after the mean over tokens: 8 features by all labels; the token table is looked up in.
    labels = sum(len(task.labels) for task in TOY_TASKS)
    assert (found.fixed, found.token, found.pair, found.source) == (2 * 8 * labels, 0.0, 0.0, "graph")
    assert 4 * 8 * labels <= found.weight_bytes <= 4 * 8 * labels + 64


def test_the_operations_of_a_transformer_are_those_counted_by_hand(torch_toys):
    toys = torch_toys["transformer"]
    settings = json.loads((toys["folders"]["fp32"]["torch"] / CONFIG).read_bytes())
    width, wide = settings["hidden_size"], settings["intermediate_size"]
    layers = settings["num_hidden_layers"]
    heads = 2 * width * sum(len(task.labels) for task in toys["fp32"].tasks)
    # Queries, keys, values and output are width by width; two products in the feed-forward part.
    layer, pairs = 2 * (4 * width * width + 2 * width * wide), 2 * 2 * width
    torch = count_operations(toys["folders"]["fp32"]["torch"])
    assert (torch.fixed, torch.token, torch.pair) == (heads, layers * layer, layers * pairs)
    for precision in ("fp32", "int8"):
        for runtime in ("onnxruntime", "openvino"):
            graph = count_operations(toys["folders"][precision][runtime])
            # Of the last layer an export may leave out all that the first token does not need: it then counts
            # there once a document. Keys and values all tokens need.
            spared = layers * layer - graph.token
            assert 0 <= spared <= layer - 2 * 2 * width * width
            assert graph.fixed == pytest.approx(heads + spared, abs=pairs)
            assert graph.pair in ((layers - 1) * pairs, layers * pairs)


def test_int8_weights_are_a_quarter_and_operations_the_same_in_both_runtimes(torch_toys):
    for toys in torch_toys.values():
        whole, small = (
            [count_operations(toys["folders"][precision][runtime]) for runtime in ("onnxruntime", "openvino")]
            for precision in ("fp32", "int8")
        )
        for one in (*whole, *small):
            assert (one.fixed, one.token, one.pair) == (whole[0].fixed, whole[0].token, whole[0].pair)
        assert small[0].weight_bytes < 0.5 * whole[0].weight_bytes


def test_the_embedded_encoders_graph_counts_as_its_configuration(torch_toys):
    folders = torch_toys["convolutional"]["folders"]["fp32"]
    graph, torch = count_operations(folders["openvino"]), count_operations(folders["torch"])
    assert (graph.fixed, graph.token, graph.pair) == (torch.fixed, torch.token, torch.pair)


def test_a_graph_that_cannot_be_read_is_named(tmp_path):
    folder = write_toy_folder(tmp_path / "toy", "onnxruntime")
    (folder / "onnx" / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot be counted"):
        count_operations(folder)


def test_the_machines_peaks_are_rates_and_larger_working_sets_are_no_faster():
    found = measure_peaks(1, 0.0)
    assert set(found.gigaoperations_per_second) == {"fp32", "bf16", "int8"}
    # Any processor does a thousandth of this, none a thousand times as much.
    assert all(0.5 < rate < 5e5 for rate in found.gigaoperations_per_second.values())
    rates = [one.gigabytes_per_second for one in found.bandwidths]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0.1
