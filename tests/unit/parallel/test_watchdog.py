"""The watchdog ends what takes too long, and nothing else."""

import threading
import time

from hpc_bnn.parallel.watchdog import Watchdog


def test_a_block_that_hangs_is_reported_once() -> None:
    told: list[float] = []
    over = threading.Event()

    def expire(seconds: float) -> None:
        told.append(seconds)
        over.set()

    watchdog = Watchdog(0.01, expire)
    with watchdog.watching():
        assert over.wait(30)
    assert len(told) == 1
    assert told[0] > 0.01


def test_the_next_block_that_hangs_is_reported_too() -> None:
    """The first may have been only slow."""
    over = threading.Event()
    watchdog = Watchdog(0.01, lambda seconds: over.set())
    for _ in range(2):
        over.clear()
        with watchdog.watching():
            assert over.wait(30)


def test_a_block_that_ends_is_left_alone() -> None:
    over = threading.Event()
    watchdog = Watchdog(3600, lambda seconds: over.set())
    for _ in range(3):
        with watchdog.watching():
            pass
    assert not over.wait(1)


def test_without_a_limit_there_is_no_thread() -> None:
    before = threading.active_count()
    with Watchdog(0, lambda seconds: None).watching():
        assert threading.active_count() == before


def test_a_pause() -> None:
    over = threading.Event()
    watchdog = Watchdog(0.01, lambda seconds: over.set())
    watchdog.pause()
    with watchdog.watching():
        assert not over.wait(0.5)
    watchdog.resume()
    assert not over.wait(0.5)
    with watchdog.watching():
        assert over.wait(30)


def test_what_it_knows_of_a_rank() -> None:
    watchdog = Watchdog(0, lambda seconds: None)
    with watchdog.watching("loss"):
        is_waiting, seconds = watchdog.state()
        assert is_waiting and seconds < 1
        time.sleep(0.02)
        assert watchdog.state()[1] > 0.02
    assert not watchdog.state()[0]
    assert (watchdog.name, watchdog.count) == ("loss", 1)


def test_its_thread_ends() -> None:
    turns = []
    watchdog = Watchdog(3600, lambda seconds: None, also=lambda: turns.append(1))
    time.sleep(0.5)
    watchdog.stop()
    seen = len(turns)
    assert seen > 0
    time.sleep(0.5)
    assert len(turns) == seen
