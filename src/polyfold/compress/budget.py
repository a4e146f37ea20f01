"""Which units go: the least important ones, down to a share of each target or to a budget over all of them.

Units leave in blocks (`multiple_of` of a group, or as many from every layer), since kernels run as fast on 251
channels as on 256, and a stock transformer has one feed-forward size for all its layers.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from polyfold.errors import InputError
from polyfold.model.units import Cost, Group, Keep, Key

Importance = Mapping[Key, np.ndarray]

ONE_BY_ONE = ("layers", "branches", "heads")
"""Targets whose units are large: no kernel asks for a multiple of them."""


@dataclass(frozen=True)
class Block:
    """Units that go together, and how much they matter in sum."""

    units: Mapping[Key, np.ndarray]
    importance: float

    @property
    def count(self) -> int:
        """How many units that is."""
        return sum(len(indices) for indices in self.units.values())


Stack = Sequence[Block]
"""Blocks in the order in which they go: the least important units of a group, or of all its layers, first."""


def stacks(groups: Sequence[Group], importance: Importance, multiple_of: int, even: bool) -> list[Stack]:
    """What can be removed of these groups: a stack a group, or with `even` a stack a target.

    At least `multiple_of` units of every group stay, or one where it has no more than that.
    """
    if not even:
        return [_stack([group], importance, multiple_of) for group in groups]
    by_target = groupby(sorted(groups, key=lambda group: group.target), key=lambda group: group.target)
    # Layers of a stack are alike; the sides of a dense layer are not.
    found = []
    for _, members in by_target:
        alike = groupby(sorted(members, key=_likeness), key=_likeness)
        found += [_stack(list(some), importance, multiple_of) for _, some in alike]
    return found


def _likeness(group: Group) -> int:
    return (group.layer or 0) if group.target in ("dense_width", "sentence_width") else 0


def _stack(members: Sequence[Group], importance: Importance, multiple_of: int) -> Stack:
    """Blocks that take the same number from every member, after a first one that makes them alike."""
    fewest = min(group.units for group in members)
    single = members[0].target in ONE_BY_ONE or fewest <= multiple_of
    step = 1 if single else multiple_of
    order = {group.key: np.argsort(importance[group.key], kind="stable") for group in members}
    left = {group.key: group.units for group in members}
    blocks = []
    for count in range(fewest // step * step, 0, -step):
        units = {key: order[key][len(order[key]) - left[key] : len(order[key]) - count] for key in order}
        units = {key: indices for key, indices in units.items() if len(indices)}
        left = dict.fromkeys(order, count)
        if units:
            blocks.append(Block(units, float(sum(importance[key][some].sum() for key, some in units.items()))))
    return blocks


class Cut:
    """The sets that stay while blocks go, and come back."""

    def __init__(self, groups: Sequence[Group], removed: Sequence[Block] = ()) -> None:
        self._stays = {group.key: np.ones(group.units, dtype=bool) for group in groups}
        for block in removed:
            self.remove(block)

    def remove(self, block: Block) -> None:
        """The block goes."""
        for key, indices in block.units.items():
            self._stays[key][indices] = False

    def restore(self, block: Block) -> None:
        """The block stays after all."""
        for key, indices in block.units.items():
            self._stays[key][indices] = True

    def keep(self) -> dict[Key, np.ndarray]:
        """The sets that stay of the groups that lose something: int64, ascending."""
        return {key: np.flatnonzero(stays) for key, stays in self._stays.items() if not stays.all()}


def by_share(found: Sequence[Stack], wanted: int) -> list[Block]:
    """Blocks of one target to remove, the least important (a unit) first, until `wanted` units are gone.

    Of all numbers that this way leads to, the one nearest to `wanted` is taken.
    """
    heap = [(_weight(stack, 0), number, 0) for number, stack in enumerate(found) if stack]
    heapq.heapify(heap)
    removed: list[Block] = []
    count = 0
    while heap:
        _, number, place = heapq.heappop(heap)
        block = found[number][place]
        if abs(count + block.count - wanted) > abs(count - wanted):
            break
        removed.append(block)
        count += block.count
        if place + 1 < len(found[number]):
            heapq.heappush(heap, (_weight(found[number], place + 1), number, place + 1))
    return removed


def _weight(stack: Stack, place: int) -> float:
    return stack[place].importance / stack[place].count


@dataclass(frozen=True)
class Budget:
    """At most `limit` FLOPs of one document, or parameters: `cost` tells what is left after a cut."""

    kind: str
    limit: float
    cost: Callable[[Keep], Cost]

    def of(self, keep: Keep) -> float:
        """What a cut leaves, in the budget's own unit."""
        cost = self.cost(keep)
        return float(cost.flops if self.kind == "flops" else cost.parameters)


def least(groups: Sequence[Group], found: Sequence[Stack], budget: Budget) -> float:
    """What is left where every stack is removed that saves anything."""
    cut = Cut(groups)
    reached = budget.of({})
    for stack in found:
        for block in stack:
            cut.remove(block)
        without = budget.of(cut.keep())
        if without >= reached:
            for block in stack:
                cut.restore(block)
        reached = min(reached, without)
    return reached


def check_reachable(groups: Sequence[Group], found: Sequence[Stack], budget: Budget, whole: float) -> None:
    """InputError where not even the smallest model that the targets allow is small enough."""
    reached = least(groups, found, budget)
    if reached > budget.limit:
        named = ", ".join(sorted({group.target for group in groups})) or "nothing"
        words = "FLOPs" if budget.kind == "flops" else "parameters"
        raise InputError(
            f"no cut of {named} leaves {budget.limit / whole:.3g} of the {words}: the least is "
            f"{reached / whole:.3g}",
            key="budget",
            hint=f"ask for {_rounded_up(reached / whole)} or more, name more targets, or lower multiple_of",
        )


def by_budget(groups: Sequence[Group], found: Sequence[Stack], budget: Budget) -> list[Block]:
    """Blocks to remove, the least important for what they save first, until the budget is met.

    What a block saves is worked out anew as the model shrinks: half the channels make a convolution cost a
    quarter. Savings only fall, so a block whose figure is still the lowest after it was renewed is the next to
    go (Minoux, "Accelerated greedy algorithms", 1978). One that saves nothing alone goes with the next of its
    stack: a table is worth factorizing only at a low rank. In the end, what the last large block saved too much
    is given back in smaller ones.
    """
    cut, now = Cut(groups), budget.of({})
    removed: list[tuple[int, Block]] = []
    heap = [(0.0, number, 0, stack[0]) for number, stack in enumerate(found) if stack]
    while now > budget.limit and heap:
        _, number, place, block = heapq.heappop(heap)
        more = found[number][place + 1] if place + 1 < len(found[number]) else None
        cut.remove(block)
        after = budget.of(cut.keep())
        price = block.importance / (now - after) if after < now else np.inf
        if after < now and (not heap or price <= heap[0][0]):
            removed.append((number, block))
            now = after
            if more is not None:
                heapq.heappush(heap, (0.0, number, place + 1, more))
            continue
        cut.restore(block)
        if after < now:
            heapq.heappush(heap, (price, number, place, block))
        elif more is not None:
            heapq.heappush(heap, (0.0, number, place + 1, _joined(block, more)))
    return _given_back(cut, removed, budget)


def _joined(block: Block, more: Block) -> Block:
    keys = {**block.units, **more.units}
    nothing = np.arange(0)
    units = {key: np.concatenate([one.units.get(key, nothing) for one in (block, more)]) for key in keys}
    return Block(units, block.importance + more.importance)


def _given_back(cut: Cut, removed: Sequence[tuple[int, Block]], budget: Budget) -> list[Block]:
    """Without the blocks that need not go, the last removed tried first."""
    result: list[Block] = []
    closed: set[int] = set()
    for number, block in reversed(removed):
        if number not in closed:
            cut.restore(block)
            if budget.of(cut.keep()) <= budget.limit:
                continue
            cut.remove(block)
            closed.add(number)
        result.append(block)
    return result[::-1]


def _rounded_up(share: float) -> float:
    return float(np.ceil(share * 1000) / 1000)
