"""The slots that ranks fill together, on threads as ranks: who waits for whom."""

import pytest
import torch
from thread_group import on_ranks

from hpc_bnn.data.batch_layout import BatchLayout
from hpc_bnn.group import Group
from hpc_bnn.train.feed.ring import TEXT_BYTES, Ring

LAYOUT = BatchLayout(4, ((3,), ()), (torch.float32, torch.int64))
SLOTS = 3


def ring_of(channel: Group) -> Ring:
    size = Ring.bytes_needed(LAYOUT, ranks=channel.size, slots=SLOTS)
    ring = Ring(channel.shared_memory(size), LAYOUT, channel, slots=SLOTS)
    ring.begin()
    return ring


def alone() -> Ring:
    return on_ranks(1, ring_of)[0]


def test_slots_take_turns_and_do_not_overlap() -> None:
    ring = alone()
    for item in range(SLOTS):
        for tensor in ring.item(item):
            tensor.fill_(item + 1)
    ring.fail(0, "x" * TEXT_BYTES)
    for item in range(3 * SLOTS):
        x, y = ring.item(item)
        assert (x.shape, y.shape) == ((4, 3), (4,))
        assert bool((x == item % SLOTS + 1).all()) and bool((y == item % SLOTS + 1).all())


def test_an_item_is_there_once_all_have_filled_it() -> None:
    def work(channel: Group) -> None:
        ring = ring_of(channel)
        for item in range(2 * SLOTS):
            for rank in range(channel.size):
                assert ring.lacking(item) == list(range(rank, channel.size))
                assert ring.lacking(item + 1) == list(range(channel.size))
                channel.gather(None, name="looked")
                if rank == channel.rank:
                    ring.fill(item)
                channel.gather(None, name="filled")
            assert ring.lacking(item) == []

    on_ranks(3, work)


def test_a_slot_is_free_once_all_have_released_its_item() -> None:
    def work(channel: Group) -> None:
        ring = ring_of(channel)
        assert [ring.occupied_by(item) for item in range(SLOTS)] == [[]] * SLOTS
        for item in range(2 * SLOTS):
            assert ring.occupied_by(item + SLOTS) == [0, 1]
            channel.gather(None, name="looked")
            if channel.rank == 1:
                ring.release(item)
            channel.gather(None, name="released by one")
            assert ring.occupied_by(item + SLOTS) == [0]
            channel.gather(None, name="looked again")
            if channel.rank == 0:
                ring.release(item)
            channel.gather(None, name="released by both")
            assert ring.occupied_by(item + SLOTS) == []

    on_ranks(2, work)


@pytest.mark.parametrize("text", ["", "era5.nc: damaged", "\u00e9" * TEXT_BYTES])
def test_a_failure_is_known_from_its_item_on(text: str) -> None:
    def work(channel: Group) -> None:
        ring = ring_of(channel)
        if channel.rank == 1:
            ring.fail(4, text)
        channel.gather(None, name="failed")
        assert [ring.failures(item) for item in range(4)] == [{}] * 4
        for item in (4, 5):
            (said,) = ring.failures(item).values()
            assert text.startswith(said) and len(said) == min(len(text), TEXT_BYTES // 2)
            assert list(ring.failures(item)) == [1]

    on_ranks(3 if text else 2, work)


def test_begin_counts_from_0_again() -> None:
    def work(channel: Group) -> None:
        ring = ring_of(channel)
        ring.fill(7)
        ring.release(7)
        ring.fail(7, "gone")
        ring.begin()
        assert ring.lacking(0) == [0, 1]
        assert ring.occupied_by(SLOTS) == [0, 1]
        assert ring.failures(100) == {}

    on_ranks(2, work)
