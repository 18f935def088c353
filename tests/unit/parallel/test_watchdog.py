"""The watchdog ends what takes too long, and nothing else."""

import threading

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
