import pytest

from polyfold.data.prepare import load_dataset, prepare
from polyfold.recipe import Recipe
from toys_pipeline import toy_recipe, write_toy_data


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory):
    """The toy data set, prepared."""
    base = tmp_path_factory.mktemp("compress-data")
    write_toy_data(base / "toy.csv")
    spec = Recipe.model_validate(toy_recipe()).data
    return load_dataset(prepare(spec, base, base / "out", 0))
