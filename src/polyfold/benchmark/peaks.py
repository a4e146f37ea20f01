"""The machine's own peaks: large matrix products in fp32, bf16 and int8, and reads of working sets of many sizes.

In a process of its own, so that nothing the caller has loaded is in the way. Products go through OpenVINO, as the
models do: a chain of square layers with ReLU, int8 as quantized models have it (unsigned activations, signed
weights with a scale a row). A floor that rests on them says what the same kernels would reach on shapes they like.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from polyfold.benchmark.results import Bandwidth, Peaks, Precision
from polyfold.errors import InputError
from polyfold.measure.rounds import Turns, Work, take_turns

ROUNDS = 3
LAYERS = 4
PRODUCTS = ((2048, 384), (4096, 768), (1024, 1536))
"""Rows (tokens) and width of the square layers; the best counts."""

WORKING_SETS_MB = (1.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0)
SWEPT_MB = 32.0
"""A turn reads at least so much, or small working sets would measure the threads' start."""


def measure_peaks(threads: int, seconds: float) -> Peaks:
    """Peaks of `threads` threads, from a fresh process; InputError where that fails."""
    # The threads are ours: each reads its own part with a single-threaded kernel.
    own = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "polyfold.benchmark.peaks"]
    order = json.dumps({"threads": threads, "seconds": seconds})
    done = subprocess.run(command, input=order, capture_output=True, text=True, check=False, env=own)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"the process ended with code {done.returncode}"]
        raise InputError(f"the machine's peaks could not be measured: {lines[-1]}")
    return Peaks.model_validate_json(done.stdout.splitlines()[-1])


def _main() -> None:
    from polyfold.system import telemetry_off

    telemetry_off()
    order = json.load(sys.stdin)
    threads, turns = int(order["threads"]), Turns(ROUNDS, float(order["seconds"]))
    rates = _product_rates(threads, turns)
    found = Peaks(threads=threads, gigaoperations_per_second=rates, bandwidths=tuple(_bandwidths(threads, turns)))
    sys.stdout.write(found.model_dump_json() + "\n")


def _product_rates(threads: int, turns: Turns) -> dict[Precision, float]:
    """Billions of operations a second by precision: the median of the best shape and number of streams."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    # Without time for a turn this is to see that it works: the smallest will do.
    shapes = PRODUCTS if turns.seconds > 0 else PRODUCTS[:1]
    settings = [(shape, streams) for shape in shapes for streams in sorted({1, threads})]
    works = {
        (precision, *setting): Work([_product(precision, *setting, threads)], 1, 1, (), turns)
        for precision in precisions
        for setting in settings
    }
    for work in works.values():
        work.calls[0]()
    rates = {
        (precision, shape, streams): timing.documents_per_second * streams * 2 * LAYERS * rows * shape[1] ** 2
        for (precision, shape, streams), timing in take_turns(works).items()
        if (rows := shape[0] // streams)
    }
    return {one: max(rates[one, *setting] for setting in settings) / 1e9 for one in precisions}


def _product(precision: Precision, shape: tuple[int, int], streams: int, threads: int) -> Callable[[], object]:
    """One pass of the rows through the layers: by all threads together, or cut in parts, a thread each."""
    from openvino import Core

    rows, width = shape[0] // streams, shape[1]
    properties = {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    compiled = Core().compile_model(_layers(precision, rows, width), "CPU", properties)
    requests = [compiled.create_infer_request() for _ in range(streams)]
    feeds = [np.random.default_rng(0).random((rows, width), dtype=np.float32)]

    def once() -> None:
        for request in requests:
            request.start_async(feeds, share_inputs=True)
        for request in requests:
            request.wait()

    return once


def _layers(precision: Precision, rows: int, width: int) -> Any:
    from openvino import Model, Type
    from openvino import opset13 as operation

    generator = np.random.default_rng(0)
    inputs = operation.parameter([rows, width], Type.f32)
    hidden = inputs
    low, high = (operation.constant(np.float32(value)) for value in (0.0, 1.0))
    for _ in range(LAYERS):
        if precision == "int8":
            hidden = operation.fake_quantize(hidden, low, high, low, high, 256)
            integers = operation.constant(generator.integers(-127, 128, (width, width)).astype(np.int8))
            scales = operation.constant(np.full((width, 1), 1 / 127 / width, np.float32))
            weights = operation.multiply(operation.convert(integers, Type.f32), scales)
        else:
            weights = operation.constant((generator.normal(size=(width, width)) / width).astype(np.float32))
        hidden = operation.relu(operation.matmul(hidden, weights, False, True))
    return Model([hidden], [inputs], "layers")


def _bandwidths(threads: int, turns: Turns) -> list[Bandwidth]:
    """The best of three ways to read, by working set; a larger one never counts as faster than a smaller."""
    kernels: Sequence[Callable[[np.ndarray], object]] = (
        lambda part: np.maximum.reduce(part.view(np.float32)),
        np.maximum.reduce,
        lambda part: np.dot(part.view(np.float32), part.view(np.float32)),
    )
    sets = WORKING_SETS_MB if turns.seconds > 0 else WORKING_SETS_MB[:3]
    rates: dict[float, float] = {}
    with ThreadPoolExecutor(threads) as pool:
        for megabytes in sets:
            # Whole cache lines for each thread, really written: pages of untouched zeros are all one page. Four
            # of these bytes are the float 3.0.
            size = int(megabytes * 1e6) // (64 * threads)
            parts = [np.full(64 * size, 64, np.uint8) for _ in range(threads)]
            laps = max(1, round(SWEPT_MB / megabytes))
            works = {
                place: Work([_reading(pool, kernel, parts, laps)], 1, 1, (), turns)
                for place, kernel in enumerate(kernels)
            }
            for work in works.values():
                work.calls[0]()
            passes = max(timing.documents_per_second for timing in take_turns(works).values())
            rates[megabytes] = passes * laps * 64 * size * threads / 1e9
    fastest = np.maximum.accumulate([rates[one] for one in reversed(sets)])[::-1]
    return [
        Bandwidth(megabytes=one, gigabytes_per_second=float(rate)) for one, rate in zip(sets, fastest, strict=True)
    ]


def _reading(
    pool: ThreadPoolExecutor, kernel: Callable[[np.ndarray], object], parts: Sequence[np.ndarray], laps: int
) -> Callable[[], object]:
    def read(part: np.ndarray) -> None:
        for _ in range(laps):
            kernel(part)

    return lambda: list(pool.map(read, parts))


if __name__ == "__main__":
    _main()
