"""What all ranks do together, as the first of 4,096 sees it: what travels, and what is named."""

import pytest
import torch
from row_group import RowGroup, Rule, alike
from torch import Tensor

from hpc_bnn.data.same_examples import same_examples
from hpc_bnn.data.source import InMemory
from hpc_bnn.group import ALONE, RankError
from hpc_bnn.parallel.engines import agree_on_engine
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.guards import GuardError, agree, check
from hpc_bnn.parallel.world import World

RANKS = 4096
CPU = torch.device("cpu")


def along_samples(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
    rows[..., 1:] += ranks[:, None, None]  # draws and members
    return rows


def along_data(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
    rows[..., 0] += ranks[:, None]  # batches
    return rows


def guard(samples: int, data: int, *, at_samples: Rule = along_samples) -> RowGroup:
    """Run the guard as the first rank, and return the group of all ranks."""
    everyone = RowGroup(RANKS)
    axes = (
        ALONE if samples == 1 else RowGroup(samples, at_samples),
        ALONE if data == 1 else RowGroup(data, along_data),
    )
    x = torch.ones(3)
    world = World(Grid(samples, data, 0), CPU, everyone, *axes)
    check(world, step=0, parameters={"p": x}, batch=[x], draw=x, per_sample={"rows": x})
    return everyone


@pytest.mark.parametrize(("samples", "data"), [(64, 64), (RANKS, 1), (1, RANKS)])
def test_a_guard_that_passes_is_one_reduction_of_the_world(samples: int, data: int) -> None:
    assert guard(samples, data).calls == ["guards"]


def test_a_guard_names_the_one_pair_among_thousands() -> None:
    def twins(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
        rows = along_samples(name, rows, ranks)
        rows[3000, ..., 1] = rows[17, ..., 1]
        return rows

    with pytest.raises(GuardError, match="world ranks 17 and 3000 drew the same weights"):
        guard(RANKS, 1, at_samples=twins)


def test_agreements_that_pass_gather_nothing() -> None:
    group = RowGroup(RANKS)
    agree(group, {"a": 1, "b": "x" * 1000}, name="settings")
    assert group.together(lambda: 7, name="work") == 7
    assert group.on_first(lambda: 8, name="first") == 8
    agree_on_engine(group, "torch", CPU)
    same_examples(InMemory(torch.randn(9, 2), torch.zeros(9)), group)
    assert group.calls == ["settings", "work", "first", "engine", *["data set"] * 4]


def test_the_lowest_rank_that_failed_is_named() -> None:
    def two_failed(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
        rows[[900, 4000], 0] = RANKS - ranks[[900, 4000]]
        return rows

    def text(name: str, value: object, rank: int) -> object:
        return "OSError: gone" if rank == 900 else value

    group = RowGroup(RANKS, two_failed, text)
    with pytest.raises(RankError, match="work: rank 900 failed: OSError: gone"):
        group.together(lambda: None, name="work")
    assert alike("", torch.ones(1), torch.ones(1)).item() == 1
