"""The control flow of a step: the passes of a rank forward, through the loss, and backward.

Training runs it, the estimate of memory traces it and the probe of grids times it.

A separable loss sees one pass after the other. A joint loss sees the outputs of all samples at
once: their passes run first, the loss's gradient to the outputs is taken, and is then pulled back
pass by pass; passes are kept for that, or run a second time.
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


@dataclass(frozen=True)
class Share:
    """What one rank contributes to one step.

    Attributes
    ----------
    x, y
        Inputs (B, ...) and targets (B, ...) of this rank.
    scale
        What the share of the objective is multiplied by before it goes backward.
    complexity
        Gives the share of the complexity term, a scalar; None: none of it goes backward.
    """

    x: Inputs
    y: Tensor
    step: int
    scale: float
    complexity: Callable[[], Tensor | None]

    def complexity_of(self, part: int) -> Tensor | None:
        """Return what goes backward beside a pass: the complexity term with the first, so that the
        last one ends with the gradients of the network, which are reduced meanwhile.
        """
        share = None if part else self.complexity()
        return None if share is None else share * self.scale


def accumulate(loss: Loss, passes: Passes, axis: Group, share: Share) -> Tensor:
    """Collective over the sample axis: add the gradients of this rank's share of the objective to
    those of the parameters and return the share of the data term, a scalar.
    """
    if isinstance(loss, JointLoss):
        return _joint(loss, passes, axis, share)
    values = [_separable(loss, passes, share, part) for part in range(len(passes.parts))]
    return sum(values[1:], values[0])


def _separable(loss: SeparableLoss, passes: Passes, share: Share, part: int) -> Tensor:
    samples = passes.parts[part]
    one = passes.run(share.x, share.step, samples)
    value = separable_share(loss, one.outputs, share.y, passes.settings.samples, samples)
    more = share.complexity_of(part)
    with passes.phases.within("backward"):
        one.backward(value * share.scale, more=more)
    return value.detach()


def _joint(loss: JointLoss, passes: Passes, axis: Group, share: Share) -> Tensor:
    keep = passes.settings.keep_graphs or len(passes.parts) == 1

    def forward(samples: range) -> tuple[Tensor, Pass | None]:
        one = passes.run(share.x, share.step, samples)
        return one.outputs.detach(), one if keep else None

    with torch.set_grad_enabled(keep):
        first = [forward(samples) for samples in passes.parts]
    kept = [one for _, one in first]
    outputs = torch.cat([outputs for outputs, _ in first]).requires_grad_()
    del first
    value = joint_share(loss, outputs, share.y, axis, exact=passes.settings.exact)
    with passes.phases.within("backward"):
        torch.autograd.backward(value * share.scale)
    assert outputs.grad is not None
    gradients = torch.split(outputs.grad, [len(samples) for samples in passes.parts])
    for part, (samples, gradient) in enumerate(zip(passes.parts, gradients, strict=True)):
        one = kept[part] or passes.run(share.x, share.step, samples)
        kept[part] = None
        more = share.complexity_of(part)
        with passes.phases.within("backward"):
            one.backward(one.outputs, gradient=gradient, more=more)
        del one
    return value.detach()
