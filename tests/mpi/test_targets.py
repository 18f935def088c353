"""A label that is no class, on one data rank: every rank ends, and all say which."""

import pytest
import torch
from torch import nn

import hpc_bnn as hb
from hpc_bnn.group import RankError
from hpc_bnn.parallel.world import World


@pytest.mark.parametrize("predictive", [False, True])
@pytest.mark.parametrize("label", [-100, 3])
def test_a_label_of_one_data_rank_ends_all_ranks(
    world: World, label: int, predictive: bool
) -> None:
    torch.manual_seed(0)
    posterior = hb.Gaussian(nn.Linear(6, 3))
    step = hb.Step(
        posterior,
        hb.losses.categorical_nll(predictive=predictive),
        torch.optim.SGD(posterior.parameters(), lr=0.1),
        world,
        samples=12,
        num_examples=32,
    )
    x = torch.randn(4, 6) + world.grid.data_rank
    y = torch.arange(4) % 3
    last = world.grid.data_rank == world.grid.data_ranks - 1
    step(x, y)
    before = [p.detach().clone() for p in posterior.parameters()]
    if last:
        y[2] = label
    words = rf"target {label} \(int64, example 2 .*expected classes 0 to 2"
    if not last:
        first = world.grid.world_size - world.grid.sample_ranks
        words = f"batch: rank {first} failed: ValueError: world rank {first}, step 1: {words}"
    with pytest.raises(ValueError if last else RankError, match=words):
        step(x, y)
    assert all(torch.equal(a, b) for a, b in zip(before, posterior.parameters(), strict=True))
