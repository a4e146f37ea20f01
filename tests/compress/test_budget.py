"""Which units go: the least important, and no more of them than the share or the budget asks for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyfold.compress.budget import Budget, Cut, by_budget, by_share, check_reachable, stacks
from polyfold.errors import InputError
from polyfold.model import structure
from polyfold.model.units import Group
from toys_families import family_model
from toys_torch import toy_model

SEQ = 12


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return {
        "transformer": family_model("bert").backbone,
        "convolutional": toy_model(tmp_path_factory.mktemp("tokenizer")).backbone,
    }


def groups_of(backbone, *targets):
    return [group for group in structure.groups(backbone, SEQ) if not targets or group.target in targets]


def draw(groups, seed):
    generator = np.random.default_rng(seed)
    return {group.key: generator.random(group.units) * generator.random() for group in groups}


def keep_of(groups, blocks):
    return Cut(groups, blocks).keep()


TARGETS = {
    "transformer": ("heads", "feed_forward", "width"),
    "convolutional": ("branch_width", "embedding_width", "branches"),
}


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["transformer", "convolutional"]), flops=st.booleans(), even=st.booleans(),
    multiple=st.sampled_from([1, 2, 3]), share=st.floats(0.4, 1.0), seed=st.integers(0, 9),
)  # fmt: skip
def test_a_budget_is_respected_and_met_within_one_block(backbones, kind, flops, even, multiple, share, seed):
    backbone = backbones[kind]
    groups = groups_of(backbone, *TARGETS[kind])
    importance = draw(groups, seed)
    found = stacks(groups, importance, multiple, even)
    measure = "flops" if flops else "parameters"
    whole = getattr(structure.cost(backbone, SEQ, {}), measure)
    budget = Budget(measure, share * whole, lambda keep: structure.cost(backbone, SEQ, keep))
    try:
        check_reachable(groups, found, budget, whole)
    except InputError:
        return
    removed = by_budget(groups, found, budget)
    assert budget.of(keep_of(groups, removed)) <= budget.limit
    # No block can come back: the last one removed of each stack is needed.
    last = {tuple(sorted(map(str, block.units))): number for number, block in enumerate(removed)}
    for number in last.values():
        others = [block for place, block in enumerate(removed) if place != number]
        assert budget.of(keep_of(groups, others)) > budget.limit
    # And of every group the least important went.
    for key, kept in keep_of(groups, removed).items():
        gone = np.delete(importance[key], kept)
        assert len(kept) and gone.max() <= importance[key][kept].min()
        if multiple < len(importance[key]) and key[0] not in ("heads", "branches"):
            assert len(kept) % multiple == 0


def test_a_budget_of_everything_removes_nothing(backbones):
    for kind, backbone in backbones.items():
        groups = groups_of(backbone, *TARGETS[kind])
        whole = structure.cost(backbone, SEQ, {}).flops
        budget = Budget("flops", whole, lambda keep, backbone=backbone: structure.cost(backbone, SEQ, keep))
        assert by_budget(groups, stacks(groups, draw(groups, 0), 1, False), budget) == []


def test_a_table_is_factorized_where_that_saves_parameters_although_the_first_ranks_do_not(backbones):
    backbone = backbones["convolutional"]
    groups = groups_of(backbone, "embedding_rank")
    importance = {groups[0].key: np.arange(groups[0].units, 0.0, -1.0)}
    whole = structure.cost(backbone, SEQ, {}).parameters
    budget = Budget("parameters", 0.9 * whole, lambda keep: structure.cost(backbone, SEQ, keep))
    keep = keep_of(groups, by_budget(groups, stacks(groups, importance, 1, False), budget))
    assert budget.of(keep) <= budget.limit
    rank = len(keep["embedding_rank", None])
    assert keep["embedding_rank", None].tolist() == list(range(rank))
    assert budget.of({("embedding_rank", None): np.arange(rank + 1)}) > budget.limit


def test_a_budget_that_nothing_can_meet_is_refused_with_the_least_there_is(backbones):
    backbone = backbones["transformer"]
    groups = groups_of(backbone, "heads")
    found = stacks(groups, draw(groups, 0), 1, False)
    whole = structure.cost(backbone, SEQ, {}).flops
    smallest = structure.cost(backbone, SEQ, {group.key: np.arange(1) for group in groups}).flops / whole

    def check(share):
        budget = Budget("flops", share * whole, lambda keep: structure.cost(backbone, SEQ, keep))
        check_reachable(groups, found, budget, whole)

    with pytest.raises(InputError, match=f"the least is {smallest:.3g}") as raised:
        check(0.1)
    assert "name more targets" in str(raised.value)
    check(smallest)


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4), share=st.floats(0.0, 1.0),
    multiple=st.sampled_from([1, 4]), seed=st.integers(0, 9),
)  # fmt: skip
def test_by_share_comes_as_near_as_whole_blocks_can(sizes, share, multiple, seed):
    groups = [Group("feed_forward", layer, units, 1.0, 1) for layer, units in enumerate(sizes)]
    found = stacks(groups, draw(groups, seed), multiple, False)
    wanted = round(sum(sizes) * share)
    removed = by_share(found, wanted)
    count = sum(block.count for block in removed)
    blocks = [block for stack in found for block in stack]
    largest = max((block.count for block in blocks), default=0)
    possible = sum(block.count for block in blocks)
    assert abs(count - min(wanted, possible)) <= largest
    assert all(len(kept) for kept in keep_of(groups, removed).values())


def test_evenly_every_layer_keeps_as_many_and_unevenly_the_weaker_layer_loses():
    groups = [Group("feed_forward", layer, 16, 1.0, 1) for layer in range(3)]
    importance = {group.key: np.arange(1.0, 17.0) * (100.0 if group.layer == 1 else 1.0) for group in groups}
    even = keep_of(groups, by_share(stacks(groups, importance, 4, True), 24))
    assert {key: kept.tolist() for key, kept in even.items()} == {
        ("feed_forward", layer): list(range(8, 16)) for layer in range(3)
    }
    uneven = keep_of(groups, by_share(stacks(groups, importance, 4, False), 24))
    assert {key[1]: len(kept) for key, kept in uneven.items()} == {0: 4, 2: 4}
