"""Sharing a batch along the sample axis: the same bits each way, and errors that all ranks hear of.

Every grid of this job (1 to 4 ranks), parts of different sizes, examples that are read directly or
copied, too little shared memory, a rank that cannot read, one that stalls, and early ends.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from hpc_bnn.data import Batches
from hpc_bnn.data.read_count import count_read
from hpc_bnn.group import Group, RankError
from hpc_bnn.parallel import shared_memory
from hpc_bnn.parallel.world import World
from hpc_bnn.train.feed import sharing as sharing_file
from hpc_bnn.train.feed.feed import Feed
from hpc_bnn.train.feed.memory import all_arrive
from hpc_bnn.train.feed.report import data_report
from hpc_bnn.train.feed.sharing import Sharing
from hpc_bnn.train.feed.window import SLOTS

EXAMPLES = 96
STEPS = 4 * SLOTS
WAYS = ["each", "allgather", "window"]


class Unreadable(Exception):
    """What a rank raises here; nothing else does."""


@dataclass
class Numbered:
    """Examples whose numbers are functions of their index, y of another type and shape than x.

    broken: raise from this read on. block: wait for this event in the third read.
    """

    agreed: ClassVar[bool] = True  # every read here is counted
    broken: int | None = None
    block: threading.Event | None = None
    reads: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return EXAMPLES

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.reads.append(indices.tolist())
        if self.broken is not None and len(self.reads) > self.broken:
            raise Unreadable("era5.nc: 't2m' at 2001-01-01T06:00 cannot be read")
        if self.block is not None and len(self.reads) > 2:
            self.block.wait()
        count_read(40 * len(indices))
        x = indices[:, None, None] * 1000 + torch.arange(6).reshape(2, 3)
        return x.double().sin().float(), indices * 7


class Direct(Numbered):
    """The same, read into given memory."""

    def batch_into(self, indices: Tensor, x: Tensor, y: Tensor) -> None:
        read_x, read_y = Numbered.batch(self, indices)
        x[...], y[...] = read_x, read_y


def batches_of(world: World, examples: Numbered, per_data_rank: int) -> Batches:
    size = per_data_rank * world.grid.data_ranks
    return Batches(examples, batch_size=size, world=world, seed=5)


def sharing_of(
    world: World, batches: Batches, asked: str, *, reads_files: bool = True, limit_s: float = 60.0
) -> Sharing:
    return Sharing(world, batches, asked=asked, reads_files=reads_files, stall_timeout_s=limit_s)


def digests(feed: Feed, count: int) -> list[str]:
    """Return one for each batch; each is looked at while it may be used."""
    found = []
    for _ in range(count):
        x, y = next(feed)
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        said = f"{tuple(x.shape)} {tuple(y.shape)}".encode()
        found.append(hashlib.sha256(said + x.numpy().tobytes() + y.numpy().tobytes()).hexdigest())
    return found


@contextmanager
def opened(sharing: Sharing, steps: range) -> Iterator[Feed]:
    """Collective over the world: a feed, and the end of it on all ranks."""
    sharing.choose(steps)
    feed = sharing.open(steps)
    try:
        yield feed
    finally:
        feed.close()
        sharing.free()


@pytest.mark.parametrize("per_data_rank", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", [Numbered, Direct])
@pytest.mark.parametrize("way", [*WAYS, "auto"])
def test_batches_are_the_same_bits(
    world: World, way: str, kind: type[Numbered], per_data_rank: int
) -> None:
    """On any grid, with parts of any size, over an epoch's end, also from a later step on."""
    batches = batches_of(world, kind(), per_data_rank)
    steps = range(batches.steps_per_epoch - 2, batches.steps_per_epoch - 2 + STEPS)
    expected = []
    for step in steps:
        x, y = batches.at(step)
        said = f"{tuple(x.shape)} {tuple(y.shape)}".encode()
        bits = said + x.numpy().tobytes() + y.numpy().tobytes()
        expected.append(hashlib.sha256(bits).hexdigest())
    for first in (0, 5):
        sharing = sharing_of(world, batches_of(world, kind(), per_data_rank), way)
        with opened(sharing, steps[first:]) as feed:
            if world.grid.sample_ranks > 1 and way != "auto":
                assert sharing.mode == way
            assert digests(feed, STEPS - first) == expected[first:]
            with pytest.raises(StopIteration):
                next(feed)
    same = world.sample_axis.gather(expected, name="test.digests")
    assert same == [expected] * world.grid.sample_ranks


class Rolled(Numbered):
    """Examples whose y grows with the rollout of the epoch."""

    def batch(self, indices: Tensor, rollout: int = 1) -> tuple[Tensor, Tensor]:
        x, y = super().batch(indices)
        return x, y[:, None] + torch.arange(rollout)


@pytest.mark.parametrize("way", [*WAYS, "auto"])
def test_batches_that_change_their_shape_are_shared_all_the_same(world: World, way: str) -> None:
    """From the middle of an epoch on, over two changes, and read once in each shape."""
    examples, size = Rolled(), 3 * world.grid.data_ranks
    grows = {0: 2, 1: 2, 2: 1}
    batches = Batches(
        examples, batch_size=size, world=world, seed=5, rollout=lambda epoch: grows.get(epoch, 4)
    )
    per_epoch = batches.steps_per_epoch
    steps = range(per_epoch - 1, 3 * per_epoch + 2)
    lengths = [batches.at(step)[1].shape[1] for step in steps]
    assert lengths == [2] * (per_epoch + 1) + [1] * per_epoch + [4] * 2
    expected = [tuple(t.clone() for t in batches.at(step)) for step in steps]
    sharing = sharing_of(world, batches, way)
    with opened(sharing, steps) as feed:
        if world.grid.sample_ranks > 1 and way != "auto":
            assert sharing.mode == way
        for x, y in expected:
            got_x, got_y = next(feed)
            assert torch.equal(got_x, x) and torch.equal(got_y, y)
        with pytest.raises(StopIteration):
            next(feed)
        sizes = [3 * (24 + 8 * length) for length in lengths]
        assert feed.reads.all_batch_bytes == sum(sizes)


@pytest.mark.parametrize("way", ["allgather", "window"])
def test_every_example_is_read_once(world: World, way: str) -> None:
    examples = Numbered()
    batches = batches_of(world, examples, 5)
    sharing = sharing_of(world, batches, way)
    with opened(sharing, range(STEPS)) as feed:
        digests(feed, STEPS)
    tried = 1 if world.grid.sample_ranks > 1 else 0  # what batches look like
    mine = [index for read in examples.reads[tried:] for index in read]
    everyone = world.sample_axis.gather(mine, name="test.reads")
    read = [index for of_rank in everyone for index in of_rank]
    wanted = [index for step in range(STEPS) for index in batches.indices(step).tolist()]
    assert sorted(read) == sorted(wanted)
    report = data_report(
        world, sharing, feed.reads, batch_size=10, samples=4, times_s=[0.5], waits_s=[0.5]
    )
    assert report["bytes_read"] == 40 * 5 * STEPS * world.grid.data_ranks
    assert report["batch_bytes"] == 5 * (6 * 4 + 8)
    assert report["read_amplification"] == pytest.approx(40 / 32)
    assert report["wait_share"] == pytest.approx(0.5)
    assert report["examples_per_s"] == pytest.approx(10.0)
    assert report["samples_per_s"] == pytest.approx(40.0)


@pytest.mark.parametrize("way", ["allgather", "window"])
def test_a_rank_that_cannot_read(world: World, way: str) -> None:
    """Each sample rank in turn: its own error, and one on the others that names it and why."""
    for broken in range(world.grid.sample_ranks):
        here = world.grid.sample_rank == broken
        reads = 1 if world.grid.sample_ranks > 1 else 0
        examples = Numbered(broken=reads + 2 if here else None)
        sharing = sharing_of(world, batches_of(world, examples, 4), way)
        with opened(sharing, range(STEPS)) as feed:
            digests(feed, 2)
            expected = Unreadable if here else RankError
            with pytest.raises(expected, match=r"era5\.nc: 't2m' at 2001-01-01T06:00") as caught:
                next(feed)
            assert here or f"rank {broken} failed" in str(caught.value)
        assert world.all_ranks.gather(1, name="test.after") == [1] * world.grid.world_size


def test_a_rank_that_cannot_read_the_first_example(world: World) -> None:
    if world.grid.sample_ranks == 1:
        pytest.skip("a rank alone does not look at it")
    here = world.all_ranks.rank == 0
    sharing = sharing_of(world, batches_of(world, Numbered(broken=0 if here else None), 4), "auto")
    with pytest.raises(Unreadable if here else RankError, match=r"era5\.nc"):
        sharing.choose(range(STEPS))


def test_a_rank_that_stalls(world: World) -> None:
    """At the second batch: the others say who lags; the threads end once it goes on."""
    if world.grid.sample_ranks == 1:
        pytest.skip("nobody waits for a rank alone")
    last = world.grid.sample_ranks - 1
    here = world.grid.sample_rank == last
    block = threading.Event()
    examples = Numbered(block=block if here else None)
    sharing = sharing_of(world, batches_of(world, examples, 4), "window", limit_s=0.5)
    with opened(sharing, range(STEPS)) as feed:
        if not here:
            next(feed)
            with pytest.raises(TimeoutError, match=f"sample rank {last} of {last + 1} .* step 1"):
                next(feed)
        assert all_arrive(world.all_ranks, within_s=30.0)
        block.set()


@pytest.mark.parametrize("way", [*WAYS, "auto"])
@pytest.mark.parametrize("used", [0, 1, SLOTS + 1])
def test_an_early_end(world: World, way: str, used: int) -> None:
    sharing = sharing_of(world, batches_of(world, Numbered(), 4), way)
    with opened(sharing, range(STEPS)) as feed:
        digests(feed, used)


def test_batches_are_kept_until_the_next_one_is_asked_for(world: World) -> None:
    """One rank runs ahead as far as it can; what the other one uses stays as it is."""
    batches = batches_of(world, Numbered(), 4)
    with opened(sharing_of(world, batches, "window"), range(STEPS)) as feed:
        for step in range(STEPS):
            x, y = next(feed)
            if world.grid.sample_rank == step % world.grid.sample_ranks:
                threading.Event().wait(0.02)  # the others and all threads go on
            expected = batches_of(world, Numbered(), 4).at(step)
            assert torch.equal(x, expected[0]) and torch.equal(y, expected[1])


@pytest.mark.parametrize("asked", ["auto", "window"])
def test_too_little_shared_memory(
    world: World, asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen before it is touched, on one rank only: all take the exchange, and one says so."""
    if world.grid.sample_ranks == 1:
        pytest.skip("a rank alone shares nothing")
    if world.all_ranks.rank == world.grid.world_size - 1:
        monkeypatch.setattr(shared_memory.os, "statvfs", lambda folder: Room(1, 4096))
    batches = batches_of(world, Numbered(), 5)
    sharing = sharing_of(world, batches, asked)
    with opened(sharing, range(STEPS)) as feed:
        assert sharing.mode in (("allgather", "each") if asked == "auto" else ("allgather",))
        assert "window" not in sharing.tested_s
        x, _ = next(feed)
        assert torch.equal(x, batches.at(0)[0])
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (1 if world.is_first else 0)
    instead = "allgather or each instead" if asked == "auto" else "allgather instead"
    assert all(instead in text and "/dev/shm has 0 MiB free" in text for text in said)


@pytest.mark.parametrize("asked", ["auto", "window"])
def test_sample_ranks_on_several_nodes(
    world: World, asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every rank has a node of its own: a warning only where shared memory was asked for."""
    if world.grid.sample_ranks == 1:
        pytest.skip("a rank alone shares nothing")

    def alone(group: Group, name: str) -> tuple[Group, list[int]]:
        return group.split(group.rank, 0), []

    monkeypatch.setattr("hpc_bnn.train.feed.memory.split_by_node", alone)
    sharing = sharing_of(world, batches_of(world, Numbered(), 4), asked)
    with opened(sharing, range(STEPS)) as feed:
        assert sharing.mode != "window"
        next(feed)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (1 if world.is_first and asked == "window" else 0)
    assert all("on several nodes" in text for text in said)


@dataclass
class Room:
    """What ``os.statvfs`` says."""

    f_bavail: int
    f_frsize: int


def test_memory_that_cannot_be_made(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """MPI refuses on every rank; and it gives memory that has no pages."""
    if world.grid.sample_ranks == 1:
        pytest.skip("a rank alone shares nothing")

    def refuse(all_ranks: Group, size: int) -> None:
        raise RuntimeError("MPI_ERR_INTERN")

    with monkeypatch.context() as patch:
        patch.setattr(type(world.all_ranks), "shared_memory", refuse)
        sharing = sharing_of(world, batches_of(world, Numbered(), 4), "window")
        with opened(sharing, range(STEPS)) as feed:
            assert sharing.mode == "allgather"
            next(feed)

    def no_pages(array: object) -> None:
        raise MemoryError("no room for its pages")

    monkeypatch.setattr("hpc_bnn.train.feed.memory.claim", no_pages)
    sharing = sharing_of(world, batches_of(world, Numbered(), 4), "window")
    with opened(sharing, range(STEPS)) as feed:
        assert sharing.mode == "allgather"
        next(feed)
    if world.is_first:
        said = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert ["MPI_ERR_INTERN" in said[0], "no room for its pages" in said[1]] == [True, True]


@pytest.mark.parametrize(
    ("per_data_rank", "reads_files"), [(1, True), (4, False)], ids=["one example", "in memory"]
)
def test_auto_does_not_test_where_nothing_is_to_share(
    world: World, per_data_rank: int, reads_files: bool
) -> None:
    examples = Numbered()
    batches = batches_of(world, examples, per_data_rank)
    sharing = sharing_of(world, batches, "auto", reads_files=reads_files)
    with opened(sharing, range(STEPS)) as feed:
        assert (sharing.mode, sharing.tested_s) == ("each", {})
        digests(feed, 2)
    assert len(examples.reads[0]) == per_data_rank


def test_auto_takes_what_was_by_far_the_fastest_on_all_ranks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if world.grid.sample_ranks == 1:
        pytest.skip("a rank alone shares nothing")
    for fastest in WAYS:
        took = dict.fromkeys(WAYS, 3.0) | {fastest: 1.0}
        # On the last rank another way looks faster, but it is not so on the first.
        if world.all_ranks.rank > 0:
            took[WAYS[WAYS.index(fastest) - 1]] = 0.5
        monkeypatch.setattr(
            sharing_file.Sharing, "_timed", lambda self, way, step, took=took: took[way]
        )
        sharing = sharing_of(world, batches_of(world, Numbered(), 4), "auto")
        with opened(sharing, range(STEPS)) as feed:
            assert sharing.mode == fastest
            assert sharing.tested_s == dict.fromkeys(WAYS, 3.0) | {fastest: 1.0}
            next(feed)


def test_batches_that_differ_in_shape_are_refused(world: World) -> None:
    if world.grid.sample_ranks == 1:
        pytest.skip("a rank alone reads whatever comes")

    class Growing(Numbered):
        def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            x, y = Numbered.batch(self, indices)
            return (x if len(self.reads) == 1 else x[:, :1]), y

    sharing = sharing_of(world, batches_of(world, Growing(), 4), "window")
    refused = pytest.raises(ValueError, match=r"expected .*, 2, 3.* set data.share = each")
    with opened(sharing, range(STEPS)) as feed, refused:
        next(feed)
