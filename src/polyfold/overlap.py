"""Work side by side: the next item is made while the present one is used."""

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, each made in one background thread while the one before is used.

    Two are in memory at a time, not more. An error comes where its item would have. Close the generator (`with
    contextlib.closing(...)`) where its use may end early: that waits for the thread, so that none is left behind.
    """
    remaining = iter(items)
    end = object()
    with ThreadPoolExecutor(1, "one-ahead") as background:
        following = background.submit(next, remaining, end)
        while (item := following.result()) is not end:
            following = background.submit(next, remaining, end)
            yield item  # type: ignore[misc]
