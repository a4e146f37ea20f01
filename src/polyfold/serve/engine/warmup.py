"""Everything a model prepares on first use, done before it takes traffic.

A runtime prepares kernels for every shape it meets, and one text alone has compiled models of its own: tens of
milliseconds each, which would otherwise be the latency of whoever comes first.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from polyfold.predictor import Predictor
from polyfold.runtimes.openvino import OpenVinoSession
from polyfold.text.shapes import FEW_WIDTHS, ROWS

SECONDS = 20.0
"""After this no further shape is prepared: the model is slow, and so is everything that is left."""


def warm_up(lanes: Sequence[Predictor], token_budget: int, clock: Callable[[], float]) -> int:
    """Run a model on the shapes that serving makes, the small and narrow first; how many were run.

    `lanes` are run side by side, since each keeps for itself what it has prepared.
    """
    until, done = clock() + SECONDS, 0
    with ThreadPoolExecutor(len(lanes), "warm-up") as threads:
        for rows, width in shapes(lanes[0].config.max_length, token_budget):
            if done and clock() > until:
                break
            list(threads.map(lambda lane, shape=(rows, width): _run(lane, *shape), lanes))
            done += 1
    return done


def _run(predictor: Predictor, rows: int, width: int) -> None:
    ids = np.full((rows, width), predictor.tokenizer.spec.pad_id, np.int64)
    # Of one text, the second run finds the compiled model that the first one asked for.
    for _ in range(2 if rows == 1 else 1):
        predictor.session.run(ids, np.ones_like(ids))
        if rows == 1 and isinstance(predictor.session, OpenVinoSession):
            predictor.session.singles.wait()


def shapes(longest: int, token_budget: int) -> Iterator[tuple[int, int]]:
    """Documents and tokens of the batches that are met: the ladder of rows by the planner's widths."""
    widths = [*(width for width in FEW_WIDTHS if width < longest), longest]
    for rows in ROWS:
        for width in widths:
            if rows == 1 or rows * width <= token_budget:
                yield rows, width
