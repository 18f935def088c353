"""The groups of a grid over MPI: members, exchanges, and failures that all ranks hear of."""

from typing import Any

import pytest
import torch
from mpi4py import MPI

from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.parallel import mpi_group, objects
from hpc_bnn.parallel.mpi_group import MPIGroup
from hpc_bnn.parallel.world import World

GROUPS = ["all_ranks", "sample_axis", "data_axis"]


def of(world: World, name: str) -> tuple[Group, list[int]]:
    """Return a group and the world ranks that must be in it, in order."""
    grid = world.grid
    members = {
        "all_ranks": list(range(grid.world_size)),
        "sample_axis": grid.sample_axis,
        "data_axis": grid.data_axis,
    }
    return getattr(world, name), members[name]


@pytest.mark.parametrize("name", GROUPS)
def test_members(world: World, name: str) -> None:
    group, members = of(world, name)
    assert (group.size, members[group.rank]) == (len(members), world.grid.world_rank)
    assert (group is ALONE) == (group.size == 1)
    assert group.gather(world.grid.world_rank, name="test.members") == members
    assert group.broadcast(world.grid.world_rank, name="test.first") == members[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64], ids=str)
@pytest.mark.parametrize("name", GROUPS)
def test_exchanges(world: World, name: str, dtype: torch.dtype) -> None:
    """Also of a tensor whose elements do not lie one after another."""
    group, members = of(world, name)
    held = [(torch.arange(6).reshape(2, 3) + 100 * rank).to(dtype).t() for rank in members]
    mine = held[group.rank].clone()
    total = group.all_reduce(mine, reduction="sum", name="test.sum")
    assert torch.equal(total, torch.stack(held).sum(0))
    largest = group.all_reduce(mine, reduction="max", name="test.max")
    assert torch.equal(largest, held[-1])
    assert torch.equal(group.all_gather(mine, name="test.gather"), torch.cat(held))
    parts = torch.stack([mine + 1000 * place for place in range(group.size)])
    received = group.all_to_all(parts, name="test.blocks")
    assert torch.equal(received, torch.stack([other + 1000 * group.rank for other in held]))
    assert torch.equal(mine, held[group.rank])


def test_large_tensors_of_an_object(all_ranks: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts of 1000 bytes, beside the message; of every rank but the first a copy of its own."""
    monkeypatch.setattr(mpi_group, "PART_BYTES", 1000)
    monkeypatch.setattr(objects, "LARGE", 100)
    held = torch.arange(3001).to(torch.int16).view(-1, 1)
    value = {"x": held, "again": held, "flags": held % 2 == 0} if all_ranks.rank == 0 else None
    got = all_ranks.broadcast(value, name="test.object")
    assert got is not None
    assert torch.equal(got["x"], held) and got["again"] is got["x"]
    assert torch.equal(got["flags"], held % 2 == 0)


class Engine:
    """Moves nothing, and notes what it is asked to move."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def all_gather(self, x: torch.Tensor, *, name: str, **more: Any) -> torch.Tensor:
        self.names.append(name)
        return x

    all_reduce = all_to_all = all_gather


def test_tensors_that_are_not_on_the_host_are_moved_by_the_engine() -> None:
    engine: Any = Engine()
    group = MPIGroup(MPI, MPI.COMM_SELF).through(engine)
    for device in ("cpu", "meta"):
        x = torch.zeros(1, device=device)
        assert group.all_reduce(x, reduction="sum", name=f"sum on {device}").device == x.device
        assert group.all_gather(x, name=f"gather on {device}").device == x.device
        assert group.all_to_all(x, name=f"blocks on {device}").device == x.device
    assert engine.names == ["sum on meta", "gather on meta", "blocks on meta"]


class Broken(Exception):
    """What a rank raises here; nothing else does."""


def fail(rank: int) -> None:
    raise Broken(f"file of rank {rank} is gone")


@pytest.mark.parametrize("everyone", [False, True])
def test_together_with_a_failing_rank(all_ranks: Group, everyone: bool) -> None:
    """Each rank in turn: it keeps its own error, the others hear who failed at what and why."""
    rank = all_ranks.rank
    for broken in range(all_ranks.size):
        fails = everyone or rank == broken
        with pytest.raises(Broken if fails else RankError) as error:
            all_ranks.together(lambda f=fails: fail(rank) if f else None, name="reading")
        if not fails:
            text = f"reading: rank {broken} failed: {Broken.__module__}.Broken: file of rank"
            assert text in str(error.value)
        # And the group still works.
        assert all_ranks.gather(1, name="test.after") == [1] * all_ranks.size
    assert all_ranks.together(lambda: 10 * rank, name="reading") == 10 * rank


def test_on_first(all_ranks: Group) -> None:
    """It runs once and all get the result, or all hear that it failed."""
    ranks: list[int] = []

    def action() -> str:
        ranks.append(all_ranks.rank)
        return f"from {all_ranks.rank}"

    assert all_ranks.on_first(action, name="writing") == "from 0"
    assert ranks == ([0] if all_ranks.rank == 0 else [])
    with pytest.raises(Exception, match="file of rank 0 is gone") as error:
        all_ranks.on_first(lambda: fail(all_ranks.rank), name="writing")
    assert isinstance(error.value, Broken) == (all_ranks.rank == 0)
    assert all_ranks.gather(1, name="test.after") == [1] * all_ranks.size


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
    all_ranks: Group, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects of different sizes on every rank, tensors of any dtype, also empty ones."""
    monkeypatch.setattr(mpi_group, "PART_BYTES", part_bytes)
    recorder = Recorder(all_ranks.comm if isinstance(all_ranks, MPIGroup) else MPI.COMM_WORLD)
    group = MPIGroup(MPI, recorder)
    texts = ["x" * (10 * rank) + str(rank) for rank in range(group.size)]
    assert group.gather(texts[group.rank], name="test.gather") == texts
    assert group.broadcast(texts[group.rank] * 3, name="test.broadcast") == texts[0] * 3
    for tensor in (
        torch.linspace(-1, 1, 35).reshape(5, 7),
        torch.linspace(-1, 1, 35, dtype=torch.float64),
        torch.linspace(-1, 1, 35).to(torch.bfloat16),
        torch.arange(9),
        torch.tensor([True, False, True]),
        torch.tensor(2.5),
        torch.empty(0, 3),
    ):
        own = tensor.clone() if group.rank == 0 else torch.zeros_like(tensor)
        group.broadcast_tensor(own, name="test.tensor")
        assert torch.equal(own, tensor)
    assert max(recorder.sizes) <= part_bytes
    if part_bytes == 8:
        assert recorder.sizes.count(8) > 35
