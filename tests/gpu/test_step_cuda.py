"""A training step on a GPU gives the run of the CPU: the noise is the same function."""

import pytest
import torch

import hpc_bnn as hb
from hpc_bnn.models import MLP
from hpc_bnn.parallel.grid import Grid

if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)


def losses_on(device: str, loss: hb.losses.Loss) -> list[float]:
    torch.manual_seed(0)
    world = hb.World(Grid(1, 1, 0), torch.device(device))
    posterior = hb.Gaussian(MLP((8,), (3,), hidden=(32,)), initial_sigma=0.1, seed=3)
    posterior.to(device)
    optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-2)
    step = hb.Step(posterior, loss, optimizer, world, samples=4, num_examples=64)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 8, generator=generator)
    y = torch.randn(16, 3, generator=generator)
    return [float(step(x, y)) for _ in range(10)]


@pytest.mark.parametrize("name", ["gaussian_nll", "gaussian_moments", "almost_fair_crps"])
def test_gpu_run_equals_cpu_run(name: str) -> None:
    make = hb.losses.LOSSES[name]
    on_cpu, on_gpu = losses_on("cpu", make()), losses_on("cuda", make())
    # float32 sums in another order, amplified by ten steps of Adam
    assert on_gpu == pytest.approx(on_cpu, rel=1e-4)
