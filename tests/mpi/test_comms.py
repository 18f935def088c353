"""The channels of a grid: members, exchanges, and failures that all ranks hear of."""

from typing import Any

import pytest
import torch
from mpi4py import MPI

from hpc_bnn.parallel import mpi_channel
from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.comms import on_first, together
from hpc_bnn.parallel.mpi_channel import MPIChannel
from hpc_bnn.parallel.world import World

CHANNELS = ["world", "sample", "data"]


def of(world: World, name: str) -> tuple[Channel, list[int]]:
    """Return a channel and the world ranks that must be on it, in order."""
    grid = world.grid
    members = {
        "world": list(range(grid.world_size)),
        "sample": grid.sample_axis,
        "data": grid.data_axis,
    }
    return getattr(world, name), members[name]


@pytest.mark.parametrize("name", CHANNELS)
def test_members(world: World, name: str) -> None:
    axis, members = of(world, name)
    assert axis.size == len(members)
    assert axis.gather_objects(world.grid.world_rank, name="test.members") == members
    assert axis.broadcast(world.grid.world_rank, name="test.first") == members[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64], ids=str)
@pytest.mark.parametrize("name", CHANNELS)
def test_exchanges(world: World, name: str, dtype: torch.dtype) -> None:
    """Also of a tensor whose elements do not lie one after another."""
    axis, members = of(world, name)
    grid = world.grid
    mine = (torch.arange(6).reshape(2, 3) + 100 * grid.world_rank).to(dtype).t()
    everyone = [(torch.arange(6).reshape(2, 3) + 100 * rank).to(dtype).t() for rank in members]
    kept = mine.clone()
    total = axis.all_reduce(mine, reduction="sum", name="test.sum")
    assert torch.equal(total, torch.stack(everyone).sum(0))
    largest = axis.all_reduce(mine, reduction="max", name="test.max")
    assert torch.equal(largest, everyone[-1])
    assert torch.equal(axis.all_gather(mine, name="test.gather"), torch.cat(everyone))
    sent = torch.stack([mine + 1000 * place for place in range(axis.size)])
    got = axis.all_to_all(sent, name="test.blocks")
    assert torch.equal(got, torch.stack([other + 1000 * axis.rank for other in everyone]))
    assert torch.equal(mine, kept)


def test_sample_axis_of_losses(world: World) -> None:
    axis, grid = world.sample_axis, world.grid
    assert (axis.size, axis.rank) == (grid.sample_ranks, grid.sample_rank)
    got = axis.all_gather(torch.tensor([grid.world_rank]), name="test.axis")
    assert got.tolist() == grid.sample_axis


class Broken(Exception):
    """What a rank raises here; nothing else does."""


def fail(rank: int) -> None:
    raise Broken(f"file of rank {rank} is gone")


def test_together_returns_each_own_result(channel: Channel) -> None:
    assert together(channel, lambda: 10 * channel.rank, name="reading") == 10 * channel.rank


@pytest.mark.parametrize("everyone", [False, True])
def test_together_with_a_failing_rank(channel: Channel, everyone: bool) -> None:
    """Each rank in turn: it keeps its own error, the others hear who failed at what and why."""
    for broken in range(channel.size):
        fails = everyone or channel.rank == broken
        with pytest.raises(Exception, match="file of rank") as caught:
            together(channel, lambda f=fails: fail(channel.rank) if f else None, name="reading")
        assert isinstance(caught.value, Broken) == fails
        if not fails:
            text = str(caught.value)
            assert f"reading: rank {broken} failed" in text
            assert f"file of rank {broken} is gone" in text
        # And the channel still works.
        assert channel.gather_objects(1, name="test.after") == [1] * channel.size


def test_on_first_runs_once_and_tells_all(channel: Channel) -> None:
    calls: list[int] = []

    def action() -> str:
        calls.append(channel.rank)
        return f"from {channel.rank}"

    assert on_first(channel, action, name="writing") == "from 0"
    assert calls == ([0] if channel.rank == 0 else [])


def test_on_first_with_a_failing_first(channel: Channel) -> None:
    with pytest.raises(Exception, match="file of rank 0 is gone") as caught:
        on_first(channel, lambda: fail(channel.rank), name="writing")
    assert isinstance(caught.value, Broken) == (channel.rank == 0)
    assert channel.gather_objects(1, name="test.after") == [1] * channel.size


class Recorder:
    """A communicator that notes how many bytes each of its messages holds."""

    def __init__(self, comm: Any) -> None:
        self._comm, self.sizes = comm, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def Ibcast(self, content: Any, root: int) -> Any:
        self.sizes.append(content.nbytes)
        return self._comm.Ibcast(content, root=root)

    def Iallgatherv(self, mine: Any, everyone: Any) -> Any:
        self.sizes.append(everyone[0].nbytes)
        return self._comm.Iallgatherv(mine, everyone)


@pytest.mark.parametrize("part_bytes", [8, 64 << 20])
def test_what_is_larger_than_a_message_goes_in_parts(
    channel: Channel, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of different sizes on every rank, tensors of any dtype, also empty ones."""
    monkeypatch.setattr(mpi_channel, "PART_BYTES", part_bytes)
    recorder = Recorder(MPI.COMM_WORLD if channel.native() is None else channel.native())
    small = MPIChannel(MPI, recorder)
    texts = ["x" * (10 * rank) + str(rank) for rank in range(channel.size)]
    assert small.gather_objects(texts[channel.rank], name="test.gather") == texts
    assert small.broadcast(texts[channel.rank] * 3, name="test.broadcast") == texts[0] * 3
    for tensor in (
        torch.linspace(-1, 1, 35).reshape(5, 7),
        torch.linspace(-1, 1, 35, dtype=torch.float64),
        torch.linspace(-1, 1, 35).to(torch.bfloat16),
        torch.arange(9),
        torch.tensor([True, False, True]),
        torch.tensor(2.5),
        torch.empty(0, 3),
    ):
        own = tensor.clone() if channel.rank == 0 else torch.zeros_like(tensor)
        small.broadcast_tensor(own, name="test.tensor")
        assert torch.equal(own, tensor)
    assert max(recorder.sizes) <= part_bytes
    if part_bytes == 8:
        assert recorder.sizes.count(8) > 35
