"""Ranges are those of the values that pass: compared with numpy over all of them, and with Migacz written anew."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polyfold.compress import calibration
from polyfold.compress.calibration import (
    BINS,
    Calibration,
    entropy_threshold,
    find_ranges,
    histogram,
    percentile_of,
)
from polyfold.compress.grids import prepare_grids
from polyfold.model.placement import Hook, place
from polyfold.model.quantized import add_hook, hooked
from toys_families import family_model
from toys_quantized import SAMPLES


@pytest.fixture(scope="module")
def grids():
    return prepare_grids(family_model("bert").classifier, SAMPLES, "static", "tensorrt")


@pytest.fixture(scope="module")
def seen(grids):
    """All values that passed each place, batch by batch, caught by other means than the calibrator's."""
    module = hooked(grids.module)
    values = {}

    class Catch(nn.Module):
        def __init__(self, place):
            super().__init__()
            self.place = place

        def forward(self, tensor):
            values.setdefault(self.place, []).append(tensor.numpy().copy())
            return tensor

    for tensor in {one.tensor for one in place(grids.found, "tensorrt").activations}:
        add_hook(module, tensor, Catch(tensor))
    with torch.no_grad():
        for batch in SAMPLES:
            module(*batch)
    return values


def ranges(grids, **spec):
    return find_ranges(grids.module, place(grids.found, "tensorrt"), SAMPLES, Calibration(**spec))


def test_min_max_is_all_that_was_seen_and_mean_min_max_the_mean_over_batches(grids, seen):
    assert len(seen) > 20
    for (tensor, _), found in ranges(grids, method="min_max").items():
        whole = np.concatenate([values.ravel() for values in seen[tensor]])
        assert (found.low, found.high) == (whole.min(), whole.max())
    for (tensor, _), found in ranges(grids, method="mean_min_max").items():
        ends = [(values.min(), values.max()) for values in seen[tensor]]
        assert (found.low, found.high) == pytest.approx(np.mean(ends, axis=0), rel=1e-6)


def test_percentiles_are_numpys_to_a_bin(grids, seen):
    for (tensor, grid), found in ranges(grids, method="percentile", percentile=99.0).items():
        assert grid == "int8"
        sizes = np.abs(np.concatenate([values.ravel() for values in seen[tensor]]))
        expected = np.percentile(sizes, 99.0)
        # numpy interpolates between two values, the histogram inside a bin.
        beyond = np.sort(sizes)[int(0.99 * (len(sizes) - 1)) :][:2]
        assert abs(found.high - expected) <= sizes.max() / BINS + np.diff(beyond)[0]
        assert found.low == -found.high


def test_uint8_percentiles_clip_each_side_by_itself():
    places = place(prepare_grids(family_model("bert").classifier, SAMPLES).found, "cpu")
    grids = prepare_grids(family_model("bert").classifier, SAMPLES)
    found = find_ranges(grids.module, places, SAMPLES, Calibration(method="percentile", percentile=95.0))
    wide = find_ranges(grids.module, places, SAMPLES, Calibration(method="min_max"))
    for key, inner in found.items():
        assert wide[key].low <= inner.low <= inner.high <= wide[key].high
    uint8 = [found[key] for key in found if key[1] == "uint8"]
    assert any(abs(one.low + one.high) > 1e-3 for one in uint8)


def reference_threshold(counts, largest):
    """Migacz's pseudocode, word by word: lists, loops, no vectors."""
    best, best_at = float("inf"), None
    for i in range(128, len(counts) + 1):
        p = [float(c) for c in counts[:i]]
        p[i - 1] += float(sum(counts[i:]))
        size = i // 128
        q = [0.0] * i
        for level in range(128):
            start = level * size
            stop = i if level == 127 else start + size
            inside = [j for j in range(start, stop) if counts[j] != 0]
            total = sum(float(counts[j]) for j in range(start, stop))
            for j in inside:
                q[j] = total / len(inside)
        p_sum, q_sum = sum(p), sum(q)
        if q_sum == 0:
            continue
        divergence = 0.0
        for a, b in zip(p, q, strict=True):
            if a:
                divergence += (a / p_sum) * np.log((a / p_sum) / (b / q_sum)) if b else float("inf")
        if divergence < best - 1e-12:
            best, best_at = divergence, i
    return largest if best_at == len(counts) else (best_at + 0.5) * largest / len(counts)


@pytest.mark.parametrize("seed", range(3))
def test_entropy_thresholds_are_those_of_the_pseudocode(seed):
    generator = np.random.default_rng(seed)
    sizes = np.abs(generator.normal(0, [1.0, 0.3, 2.0][seed], 4000))
    if seed:
        sizes = np.concatenate([sizes, [9.0, 12.0 + seed]])
    counts, _ = np.histogram(sizes, bins=384, range=(0, sizes.max()))
    found = entropy_threshold(counts.astype(np.float64), float(sizes.max()))
    assert found == pytest.approx(reference_threshold(counts, float(sizes.max())))


def test_zeros_do_not_count_for_entropy_since_every_grid_holds_them(grids, seen):
    whole = place(grids.found, "tensorrt")
    # Softmax gives exact zeros where the mask is, of which there are more than of anything else.
    chosen = [one for one in whole.activations if one.hook.operation.endswith(("softmax/0", "gelu/0"))]
    assert len(chosen) == 2
    found = find_ranges(
        grids.module, replace(whole, activations=tuple(chosen)), SAMPLES, Calibration(method="entropy")
    )
    zeros = 0
    for (tensor, _), limits in found.items():
        sizes = np.abs(np.concatenate([values.ravel() for values in seen[tensor]]))
        zeros += (sizes == 0).sum()
        counts = histogram(torch.from_numpy(sizes[sizes > 0]), 0.0, float(sizes.max()))
        assert limits.high == pytest.approx(min(entropy_threshold(counts, float(sizes.max())), sizes.max()))
    assert zeros > 100
    assert entropy_threshold(np.zeros(BINS), 2.0) == 2.0


def test_entropy_cuts_off_an_outlier_and_keeps_an_even_spread():
    generator = np.random.default_rng(0)
    even = histogram(torch.from_numpy(generator.uniform(0, 1, 200_000)), 0.0, 1.0)
    assert entropy_threshold(even, 1.0) > 0.95
    tailed = np.concatenate([np.abs(generator.normal(0, 1, 200_000)), [40.0]])
    counts = histogram(torch.from_numpy(tailed), 0.0, 40.0)
    assert 2.0 < entropy_threshold(counts, 40.0) < 10.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=200), st.floats(50.1, 99.9))
def test_a_histograms_percentile_has_so_much_below_it(values, percentile):
    array = np.array(values, np.float32)
    low, high = float(array.min()), float(array.max())
    counts = histogram(torch.from_numpy(array), low, high)
    assert counts.sum() == len(values)
    found = percentile_of(counts, low, high, percentile)
    width = (high - low) / BINS
    assert (array <= found + width + 1e-6).mean() >= percentile / 100.0 - 1e-9
    assert (array < found - width - 1e-6).mean() <= percentile / 100.0 + 1e-9
    assert percentile_of(counts, low, high, 100.0) == pytest.approx(high)


@pytest.mark.parametrize("method", ["min_max", "mean_min_max", "percentile", "entropy"])
def test_the_ranges_are_those_of_the_quantizers(method):
    spec = Calibration(method=method, percentile=98.0)
    for layout in ("cpu", "tensorrt"):
        grids = prepare_grids(family_model("bert").classifier, SAMPLES, "static", layout, spec)
        state = dict(grids.quantized().named_modules())
        placement = place(grids.found, layout)
        for one in placement.activations:
            quantizer = state[f"__nncf_hooks.{one.hook.when}_hooks.{one.hook.operation}__{one.hook.port}.0"]
            limits = grids.ranges[one.tensor, one.grid]
            low, high = (float(end.detach().squeeze()) for end in quantizer.get_input_low_input_high())
            step = (high - low) / 255
            if one.grid == "int8":
                assert high == pytest.approx(max(-limits.low, limits.high), rel=1e-5)
                assert low == pytest.approx(-high * 128 / 127, rel=1e-5)
            else:
                # The grid is moved by less than a step, so that zero is on it.
                assert low == pytest.approx(min(limits.low, 0.0), abs=1.01 * step)
                assert high == pytest.approx(max(limits.high, 0.0), abs=1.01 * step)
                assert low / step == pytest.approx(round(low / step), abs=1e-2)


def test_calibrating_leaves_no_hook_behind_and_changes_nothing(grids):
    before = {name: value.clone() for name, value in grids.module.state_dict().items()}
    ranges(grids, method="percentile")
    after = grids.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not [name for name, _ in grids.module.named_modules() if name.count(".") > 1 and "_hooks." in name]


def test_a_place_where_only_one_value_passes_gets_a_range_that_holds_zero():
    counts = calibration.histogram(torch.full((7,), 3.0), 3.0, 3.0)
    assert counts[0] == 7
    assert percentile_of(counts, 3.0, 3.0, 99.0) == 3.0
    assert Hook("pre", "a", 0) != Hook("post", "a", 0)
