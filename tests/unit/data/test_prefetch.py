"""Prefetch: order, exceptions, a clean end."""

import threading
import time
from collections.abc import Iterator

import pytest

from hpc_bnn.data.prefetch import Prefetch


def test_items_come_in_order() -> None:
    assert list(Prefetch(range(50), depth=3)) == list(range(50))
    assert list(Prefetch(iter([None, 1, None]))) == [None, 1, None]


def test_items_are_prepared_ahead_but_not_further() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    with Prefetch(items(), depth=2) as ahead:
        assert next(ahead) == 0
        time.sleep(0.3)
        assert made == [0, 1, 2, 3]  # two wait, one is in hand


def test_an_exception_comes_at_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("era5.nc")

    ahead = Prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match=r"era5\.nc"):
        next(ahead)
    with pytest.raises(StopIteration):
        next(ahead)


def test_the_thread_ends() -> None:
    before = threading.active_count()
    endless = iter(lambda: 1, 2)
    with Prefetch(endless) as ahead:
        assert next(ahead) == 1
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="in the loop"), Prefetch(endless) as ahead:
        next(ahead)
        raise RuntimeError("in the loop")
    list(Prefetch(range(3)))
    assert threading.active_count() == before
    ahead.close()


def test_depth_is_checked() -> None:
    with pytest.raises(ValueError, match="depth = 0"):
        Prefetch([1], depth=0)
