"""The control flow of a step: the passes of a rank forward, through the loss, and backward.

A separable loss sees one pass after the other. A joint loss sees the outputs of all samples at
once: their passes run first, the loss's gradient to the outputs is taken, and is then pulled back
pass by pass; passes are kept for that, or run a second time.

Letters: S samples of one pass, K samples over the grid, B examples of this rank.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.group import Group
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.phases import Phases


@dataclass(frozen=True)
class Objective:
    """What the passes of every step are taken through.

    Attributes
    ----------
    samples
        K.
    exact
        False: a joint loss sees the samples of this rank only.
    keep_graphs
        A joint loss holds the passes of all own samples instead of running them twice.
    """

    loss: Loss
    axis: Group
    samples: int
    exact: bool
    keep_graphs: bool
    phases: Phases


def accumulate(
    objective: Objective,
    passes: Passes,
    x: Inputs,
    y: Tensor,
    *,
    step: int,
    scale: float,
    complexity: Callable[[], Tensor],
) -> Tensor:
    """Collective over the sample axis: add ``scale`` times the gradients of this rank's share of
    the objective to the parameters' and return the share of the data term, a scalar.

    ``complexity`` gives the share of the complexity term: it goes backward with the first pass, so
    that the last one ends with the gradients of the network, which are reduced meanwhile.
    """
    if isinstance(objective.loss, JointLoss):
        return _joint(objective, objective.loss, passes, x, y, step, scale, complexity)
    return _separable(objective, objective.loss, passes, x, y, step, scale, complexity)


def _separable(
    objective: Objective,
    loss: SeparableLoss,
    passes: Passes,
    x: Inputs,
    y: Tensor,
    step: int,
    scale: float,
    complexity: Callable[[], Tensor],
) -> Tensor:
    total: Tensor | None = None
    for i, samples in enumerate(passes.parts):
        one = passes.run(x, step, samples)
        share = separable_share(loss, one.outputs, y, objective.samples)
        more = None if i else complexity() * scale
        with objective.phases.within("backward"):
            one.backward(share * scale, more=more)
        total = share.detach() if total is None else total + share.detach()
    assert total is not None
    return total


def _joint(
    objective: Objective,
    loss: JointLoss,
    passes: Passes,
    x: Inputs,
    y: Tensor,
    step: int,
    scale: float,
    complexity: Callable[[], Tensor],
) -> Tensor:
    keep = objective.keep_graphs or len(passes.parts) == 1

    def forward(samples: range) -> tuple[Tensor, Pass | None]:
        one = passes.run(x, step, samples)
        return one.outputs.detach(), one if keep else None

    with torch.set_grad_enabled(keep):
        first = [forward(samples) for samples in passes.parts]
    kept = [one for _, one in first]
    outputs = torch.cat([outputs for outputs, _ in first]).requires_grad_()
    del first
    share = joint_share(loss, outputs, y, objective.axis, exact=objective.exact)
    with objective.phases.within("backward"):
        torch.autograd.backward(share * scale)
    assert outputs.grad is not None
    gradients = torch.split(outputs.grad, [len(samples) for samples in passes.parts])
    for i, (samples, gradient) in enumerate(zip(passes.parts, gradients, strict=True)):
        one = kept[i] or passes.run(x, step, samples)
        kept[i] = None
        more = None if i else complexity() * scale
        with objective.phases.within("backward"):
            one.backward(one.outputs, gradient=gradient, more=more)
    return share.detach()
