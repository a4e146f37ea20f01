"""A unit's magnitude is the norm of the weights that go with it, in every family."""

import numpy as np
import pytest

from polyfold.model import structure
from polyfold.model.magnitudes import magnitudes
from toys_families import FAMILIES, family_model


def squares(model):
    return sum(float(value.detach().double().square().sum()) for value in model.classifier.encoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_norm_of_what_a_cut_takes_away(family):
    model = family_model(family)
    found = structure.groups(model.backbone, 8)
    told = magnitudes(model.classifier.encoder, found)
    assert {key: len(values) for key, values in told.items()} == {group.key: group.units for group in found}
    for key in (("heads", 1), ("feed_forward", 2), ("width", None)):
        kept = np.delete(np.arange(len(told[key])), 1)
        lost = squares(model) - squares(structure.cut(model, {key: kept}))
        assert told[key][1] ** 2 == pytest.approx(lost, rel=1e-3), key


def test_a_layers_magnitude_is_that_of_all_its_weights_and_directions_come_strongest_first():
    model = family_model("bert")
    told = magnitudes(model.classifier.encoder, structure.groups(model.backbone, 8))
    lost = squares(model) - squares(structure.cut(model, {("layers", None): np.array([0, 2])}))
    assert told["layers", None][1] ** 2 == pytest.approx(lost, rel=1e-4)
    assert (np.diff(told["embedding_rank", None]) <= 1e-5).all()
