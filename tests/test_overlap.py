"""Items made one ahead: the same ones in the same order, no further ahead, and no thread left behind."""

import threading
from contextlib import closing

import pytest

from polyfold.overlap import one_ahead


def named_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("one-ahead")]


def test_items_come_in_order_and_are_made_in_another_thread():
    makers = []

    def made():
        for number in range(50):
            makers.append(threading.current_thread())
            yield number

    assert list(one_ahead(made())) == list(range(50))
    assert threading.main_thread() not in makers
    assert list(one_ahead([])) == []
    assert named_threads() == []


def test_one_item_is_made_while_another_is_used_and_no_more():
    made, third = [], threading.Event()

    def numbers():
        for number in range(10):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    with closing(one_ahead(numbers())) as items:
        assert next(items) == 0
        assert next(items) == 1
        assert third.wait(10)
        assert made == [0, 1, 2]
    assert named_threads() == []


def test_an_error_comes_in_its_items_place():
    def numbers():
        yield 1
        yield 2
        raise KeyError("third")

    seen = []
    with pytest.raises(KeyError, match="third"):
        for number in one_ahead(numbers()):
            seen.append(number)
    assert seen == [1, 2]
    assert named_threads() == []


def test_an_error_of_the_user_leaves_no_thread():
    with pytest.raises(ZeroDivisionError), closing(one_ahead(iter(range(10)))) as items:
        for number in items:
            number // 0
    assert named_threads() == []
