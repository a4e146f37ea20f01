"""A response does not depend on its neighbours: on real exports, through the batcher, by runtime and precision.

Runtimes choose kernels by the shape of a batch and add in another order, which moves the last digit of single
precision; where sums are of integers (these toys in OpenVINO's int8) it is bit for bit the same.
"""

import time

import numpy as np
import pytest
from toy_service import Events, run

from polyfold.serve.engine.fleet import Fleet
from polyfold.serve.spec import Batching, ModelSource, ServeSpec

TOLERANCE = 2e-6
"""Largest difference of a probability, alone against in company; 3e-7 was seen."""

CROWD = [f"the parcel came and that is {'really ' * (number % 9)}good {number}" for number in range(70)]


def answers(folder, requests, batching):
    async def serve():
        fleet = Fleet(
            ServeSpec(models=(ModelSource(name="m", folders=(folder,)),), batching=batching, threads=2), Events()
        )
        await fleet.start()
        model = fleet.pick(None, None, "id")
        tickets = [model.submit(texts, time.monotonic() + 60) for texts in requests]
        found = [await ticket.future for ticket in tickets]
        await fleet.stop(5)
        return np.concatenate([one.probabilities for one in found])

    return run(serve())


@pytest.mark.parametrize("family", ["transformer", "convolutional"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_alone_or_in_company_a_text_gets_the_same_answer(torch_toys, family, precision, runtime):
    folder = torch_toys[family]["folders"][precision][runtime]
    alone = answers(folder, [[text] for text in CROWD], Batching(token_budget=1))
    together = answers(folder, [CROWD[:50], *([text] for text in CROWD[50:])], Batching())
    assert np.abs(alone - together).max() <= TOLERANCE
    # It says something only if answers differ from text to text.
    assert np.abs(alone - alone[0]).max() > 1000 * TOLERANCE
