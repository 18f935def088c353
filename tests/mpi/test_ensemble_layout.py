"""An anchored ensemble with targets of its own for each member: one answer on every grid, to 1e-10
in float64; its members start bit for bit as on one rank.
"""

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

K, N, BATCH, SEED = 12, 24, 12, 5
ALONE = World(Grid(1, 1, 0), torch.device("cpu"))
X = torch.cos(torch.arange(N * 3.0, dtype=torch.float64)).view(N, 3)
Y = torch.sin(torch.arange(N * 2.0, dtype=torch.float64)).view(N, 2)


def ensemble(world: World) -> tuple[hb.Ensemble, hb.Step]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    posterior = hb.Ensemble(network, samples=K, prior_sigma="fan_in", anchored=True, seed=SEED)
    loss = hb.losses.member_targets(hb.losses.gaussian_nll(sigma=0.5).double())
    optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-2)
    options = {"num_examples": N, "precision": "float64", "guard_every": 1, "samples_per_pass": 5}
    return posterior, hb.Step(posterior, loss, optimizer, world, samples=K, **options)


def rows(posterior: hb.Ensemble) -> Tensor:
    return torch.cat([row.detach().flatten(1) for row in posterior.rows.values()], 1)


def trained(world: World, step: hb.Step) -> Tensor:
    """Collective: train two epochs; return the losses."""
    own = world.grid.own_examples(BATCH)
    losses = []
    for i in range(4):
        first = i * BATCH % N + own.start
        part = slice(first, first + len(own))
        y = hb.perturbed_targets(Y[part], sigma=0.5, samples=K, seed=SEED, first_example=first)
        losses.append(step(X[part], y))
    return torch.stack(losses)


@pytest.mark.both_engines
def test_every_grid_gives_the_same(world: World) -> None:
    alone, alone_step = ensemble(ALONE)
    posterior, step = ensemble(world)
    own = world.grid.own_samples(K)
    assert torch.equal(rows(posterior), rows(alone)[own.start : own.stop])
    losses, expected = trained(world, step), trained(ALONE, alone_step)
    assert torch.allclose(losses, expected, rtol=1e-10, atol=0)
    assert torch.allclose(rows(posterior), rows(alone)[own.start : own.stop], rtol=0, atol=1e-10)
    assert posterior.predict(X, samples=len(own), first=own.start).shape == (len(own), N, 2)
    if len(own) < K:
        with pytest.raises(ValueError, match=rf"this process holds the members {own.start} to"):
            posterior.predict(X, samples=K)
    posterior.gather(world.sample_axis)
    assert torch.allclose(rows(posterior), rows(alone), rtol=0, atol=1e-10)
    predicted, expected = posterior.predict(X, samples=K), alone.predict(X, samples=K)
    assert torch.allclose(predicted, expected, rtol=0, atol=1e-9)
