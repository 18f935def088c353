"""Training steps to compare: a function that builds each and returns it, ready to be called.

All train the same network with the same optimizer on the same rows; a step covers zeroing the
gradients, forward, loss, backward and update.
"""

from collections.abc import Callable

import torch
from networks import NUM_EXAMPLES, Task
from torch import nn

import hpc_bnn as hb
from hpc_bnn.parallel.grid import Grid

ALONE = hb.World(Grid(1, 1, 0), torch.device("cpu"))


def adam(module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of all contenders."""
    return torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)


def deterministic(task: Task, *, samples: int, passes: int = 1) -> Callable[[], object]:
    """The network without a posterior on ``samples`` times the batch, in ``passes`` parts."""
    torch.manual_seed(0)
    network, loss = task.network(), task.alone or task.loss()
    optimizer = adam(network)
    copies = samples // passes
    x = task.x.repeat(copies, *[1] * (task.x.dim() - 1))
    y = task.y.repeat(copies, *[1] * (task.y.dim() - 1))

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(passes):
            (loss(network(x), y).mean() / passes).backward()
        optimizer.step()

    return step


def bayesian(
    task: Task,
    *,
    samples: int,
    keep_noise: bool,
    keep_graphs: bool = False,
    world: hb.World = ALONE,
    reduction: str = "world",
) -> hb.Step:
    """``hb.Step`` as a user builds it; called with the task's x and y."""
    torch.manual_seed(0)
    posterior = hb.Gaussian(task.network(), keep_noise=keep_noise)
    return hb.Step(
        posterior,
        task.loss(),
        adam(posterior),
        world,
        samples=samples,
        num_examples=NUM_EXAMPLES,
        keep_graphs=keep_graphs,
        reduction=reduction,
        guard_every=0,
    )


def hb_step(
    task: Task, *, samples: int, keep_noise: bool, keep_graphs: bool = False
) -> Callable[[], object]:
    """``hb.Step`` on one process."""
    step = bayesian(task, samples=samples, keep_noise=keep_noise, keep_graphs=keep_graphs)
    return lambda: step(task.x, task.y)
