"""What every group does: a process by itself, and ranks that are threads, on which other tests
stand. Groups over MPI pass the same in ``tests/mpi/test_group_mpi.py``.
"""

import pickle
import sys
from collections.abc import Callable

import pytest
import torch
from thread_group import NeverCame, ThreadGroup, on_ranks, outcomes
from torch import Tensor

from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World


def test_scripts_for_version_0_1_find_their_names() -> None:
    def work(group: ThreadGroup) -> list[int]:
        world = World(Grid(2, 1, group.rank), torch.device("cpu"), group)
        return world.world.gather_objects(group.rank, name="ranks")

    assert on_ranks(2, work) == [[0, 1]] * 2


def test_alone_is_the_identity_and_never_changes() -> None:
    x = torch.arange(3.0)
    total = ALONE.all_reduce(x, reduction="sum", name="x")
    assert torch.equal(total, x) and total.data_ptr() != x.data_ptr()  # a new tensor
    assert torch.equal(ALONE.all_gather(x, name="x"), x)
    assert torch.equal(ALONE.all_to_all(x.unsqueeze(0), name="x"), x.unsqueeze(0))
    ALONE.broadcast_tensor(x, name="x")
    assert x.tolist() == [0.0, 1.0, 2.0]
    assert ALONE.gather({"a": 1}, name="x") == [{"a": 1}]
    assert ALONE.broadcast("a", name="x") == "a"
    assert ALONE.together(lambda: 7, name="x") == ALONE.on_first(lambda: 7, name="x") == 7
    with pytest.raises(ZeroDivisionError):
        ALONE.together(lambda: 1 // 0, name="x")
    group: Group
    for group in (ALONE, ALONE.split(3, 1), pickle.loads(pickle.dumps(ALONE))):
        assert (group.size, group.rank) == (1, 0)
        with pytest.raises(AttributeError):
            group.rank = 1


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_collectives_equal_their_definitions(size: int) -> None:
    held = torch.arange(size * size * 2, dtype=torch.float64).reshape(size, size, 2).cos()

    def work(group: Group) -> tuple[Tensor, ...]:
        mine, first = held[group.rank], held[group.rank].clone()
        group.broadcast_tensor(first, name="first")
        assert group.gather(group.rank, name="ranks") == list(range(size))
        assert group.broadcast(group.rank + 7, name="number") == 7
        return (
            group.all_reduce(mine, reduction="sum", name="sum"),
            group.all_reduce(mine, reduction="max", name="max"),
            group.all_gather(mine, name="gather"),
            group.all_to_all(mine, name="exchange"),
            first,
        )

    for rank, (total, largest, gathered, exchanged, first) in enumerate(on_ranks(size, work)):
        assert torch.allclose(total, held.sum(0), rtol=1e-15, atol=1e-15)
        assert torch.equal(largest, held.amax(0))
        assert torch.equal(gathered, held.flatten(0, 1))
        assert torch.equal(exchanged, held[:, rank])
        assert torch.equal(first, held[0])


def test_split_orders_by_key() -> None:
    def work(group: Group) -> None:
        backwards = group.split(0, -group.rank)
        assert (backwards.size, backwards.rank) == (5, 4 - group.rank)
        pair = group.split(group.rank // 2, group.rank)
        members = [rank for rank in range(5) if rank // 2 == group.rank // 2]
        assert pair.gather(group.rank, name="pair") == members

    on_ranks(5, work)


@pytest.mark.parametrize(("sample_ranks", "data_ranks"), [(1, 3), (3, 1), (2, 2), (2, 3), (3, 2)])
def test_split_of_the_grid_gives_its_axes(sample_ranks: int, data_ranks: int) -> None:
    def work(group: Group) -> None:
        grid = Grid(sample_ranks, data_ranks, group.rank)
        sample = group.split(grid.data_rank, grid.sample_rank)
        data = group.split(grid.sample_rank, grid.data_rank)
        assert sample.gather(group.rank, name="s") == grid.sample_axis
        assert data.gather(group.rank, name="d") == grid.data_axis
        assert (sample.rank, data.rank) == (grid.sample_rank, grid.data_rank)

    on_ranks(sample_ranks * data_ranks, work)


# Work that all ranks finish or fail together


def test_together_returns_each_rank_its_own() -> None:
    assert on_ranks(3, lambda g: g.together(lambda: g.rank * 2, name="x")) == [0, 2, 4]
    assert on_ranks(2, lambda g: g.together(lambda: None, name="x")) == [None, None]


@pytest.mark.parametrize("failing", [{0}, {1}, {2}, {1, 2}])
def test_a_failure_is_raised_on_all_ranks_and_names_the_first(failing: set[int]) -> None:
    """Each that failed keeps its own error, and the group can be used after it."""

    def work(group: Group) -> str:
        def action() -> None:
            if group.rank in failing:
                raise KeyError(f"file {group.rank}")

        with pytest.raises((RankError, KeyError)) as error:
            group.together(action, name="reading the data")
        assert group.gather(group.rank, name="after") == [0, 1, 2]
        return str(error.value)

    first = min(failing)
    theirs = f"reading the data: rank {first} failed: KeyError: 'file {first}'"
    expected = [repr(f"file {r}") if r in failing else theirs for r in range(3)]
    assert on_ranks(3, work) == expected


def test_a_rank_that_exits_leaves_no_other_waiting() -> None:
    def work(group: Group) -> str:
        with pytest.raises((RankError, SystemExit)) as error:
            group.together(lambda: sys.exit(0) if group.rank else None, name="reading the data")
        return str(error.value)

    assert on_ranks(2, work) == ["reading the data: rank 1 failed: SystemExit: 0", "0"]


def test_on_first_runs_once_and_everyone_gets_the_result() -> None:
    ran: list[int] = []

    def work(group: Group) -> list[int]:
        def action() -> list[int]:
            ran.append(group.rank)
            return [group.rank, 42]

        return group.on_first(action, name="write")

    results = on_ranks(3, work)
    assert ran == [0]
    assert results == [[0, 42]] * 3
    assert results[1] is not results[2]


def test_on_first_raises_everywhere() -> None:
    def work(group: Group) -> None:
        def action() -> None:
            raise OSError("no space left")

        group.on_first(action, name="checkpoint")

    first, *others = outcomes(3, work)
    assert isinstance(first, OSError)
    for error in others:
        assert isinstance(error, RankError)
        assert str(error) == "checkpoint: rank 0 failed: OSError: no space left"


# What threads refuse, because MPI would hang


@pytest.mark.parametrize(
    "exchange",
    [
        lambda g: g.all_reduce(torch.ones(g.rank + 1), reduction="sum", name="uneven"),
        lambda g: g.gather(1, name="objects") if g.rank else g.broadcast(1, name="objects"),
    ],
)
def test_ranks_that_meet_in_different_collectives_are_refused(
    exchange: Callable[[Group], object],
) -> None:
    with pytest.raises(ValueError, match="different collectives"):
        on_ranks(2, exchange)


def test_the_error_of_one_rank_ends_all() -> None:
    def work(group: Group) -> None:
        part = group.split(0, 0)
        if group.rank == 1:
            raise KeyError("rank 1")
        part.all_gather(torch.ones(1), name="never")

    lost, failed, _ = outcomes(3, work)
    assert isinstance(lost, NeverCame) and isinstance(failed, KeyError)
    with pytest.raises(KeyError, match="rank 1"):
        on_ranks(3, work)


def test_calls_are_recorded() -> None:
    def work(group: ThreadGroup) -> list[str]:
        group.all_gather(torch.ones(1), name="first")
        group.gather(1, name="second")
        return group.calls

    assert on_ranks(2, work) == [["first", "second"]] * 2
