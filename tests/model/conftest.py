"""Fixtures for the tests of models: toy folders in the hub's layout, made once."""

import pytest

from polyfold.model.backbone import load_backbone
from toys_torch import HUB_FOLDERS, Loaded, write_hub_folder


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """A folder that holds one toy of every layout, as a recipe's own folder might."""
    root = tmp_path_factory.mktemp("hub")
    for kind in HUB_FOLDERS:
        write_hub_folder(root / kind, kind)
    return root


@pytest.fixture
def load(hub, tmp_path_factory):
    """Load one of the toys afresh, its tokenizer file going to a folder of its own."""

    def load(kind):
        folder = tmp_path_factory.mktemp("loaded")
        return Loaded(load_backbone(kind, folder, hub), folder)

    return load
