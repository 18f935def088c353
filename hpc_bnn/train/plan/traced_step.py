"""A training step that computes nothing: tensors without numbers go through the step's own control
flow, network and loss, so that its memory is known before there is a machine that could hold it.
"""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.config import Settings
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.plan.few_passes import FewPasses
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.run.build import Parts, step_settings
from hpc_bnn.train.step.accumulate import Share, accumulate


def step_bytes(parts: Parts, settings: Settings, grid: Grid) -> int:
    """Return the most memory that a step of one rank takes beyond parameters, optimizer and batch:
    gradients, drawn weights, activations and work space.

    ``parts`` cannot be used afterwards: their tensors lose their numbers.
    """
    posterior, loss, device = parts.posterior, parts.loss, torch.device("cpu")
    chosen = step_settings(settings, parts)
    one = parts.source.train.batch(torch.tensor([0]))
    if parts.unroll is not None:
        one = parts.unroll.lengthened(*one, settings.train.longest_rollout)
    examples = len(grid.own_examples(settings.train.batch_size))
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # the mask of fields
    for module in (posterior, loss):
        forget_numbers(module, mode)
    posterior.writes_to_input = False  # only a first pass copies its input to find out
    # The first pass makes the gradients that the second has to hold; the later ones are like it.
    real = chosen.samples if chosen.keep_graphs else 2
    passes = FewPasses(posterior, World(grid, device), chosen, real=real)
    passes.looks_for_dropout = False  # the states of generators have no numbers here
    with mode:
        x, y = (torch.empty((examples, *each.shape[1:]), dtype=each.dtype) for each in one)
        with LiveMemory() as live:
            share = Share(*chosen.place(x, y, device), 0, 1.0, posterior.complexity)
            accumulate(loss, passes, CountingAxis(grid.sample_ranks), share)
    return int(live.peak)


def forget_numbers(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by ones of the same shape that hold nothing."""
    for layer in module.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter.detach())
                layer._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = mode.from_tensor(buffer)
