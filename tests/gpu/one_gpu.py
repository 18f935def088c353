"""A few steps on the ranks of a job, which may share one GPU: ``one_gpu.py ENGINE DEVICE
SAMPLE_RANKS``; world rank 0 prints the number of ranks, the device and what ``train`` returns.
"""

import sys

import torch

import hpc_bnn as hb
from hpc_bnn.models import MLP


def train(world: hb.World) -> list[float]:
    """Collective: return the loss of every step and the sum of the parameters."""
    torch.manual_seed(0)
    posterior = hb.Gaussian(MLP((8,), (3,), hidden=(16,)), initial_sigma=0.1, seed=3)
    posterior.to(world.device)
    optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-2)
    loss = hb.losses.gaussian_nll()
    step = hb.Step(posterior, loss, optimizer, world, samples=4, num_examples=64)
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(8, width, generator=generator) for width in (8, 3))
    own = world.grid.own_examples(8)
    losses = [float(step(x[own.start : own.stop], y[own.start : own.stop])) for _ in range(4)]
    return [*losses, sum(float(p.detach().double().sum()) for p in posterior.parameters())]


if __name__ == "__main__":
    engine, device, sample_ranks = sys.argv[1], sys.argv[2], int(sys.argv[3])
    world = hb.start(engine=engine, device=device, sample_ranks=sample_ranks)  # type: ignore[arg-type]
    numbers = train(world)
    if world.is_first:
        print(world.grid.world_size, world.device.type, *numbers)
    world.stop()
