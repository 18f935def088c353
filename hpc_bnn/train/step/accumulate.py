"""The control flow of a step: the passes of a rank forward, through the loss, and backward.

Training runs it, the estimate of memory traces it and the probe of grids times it.

The complexity term goes backward first. Then come the passes, draw by draw. A separable loss sees
one pass after the other. A joint loss sees the outputs of all samples at once: their passes run
first, the loss's gradient to the outputs is taken, and is then pulled back pass by pass; passes are
kept for that, or run a second time.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.group import Group
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.train.step.draw import Draw
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes


def _nothing() -> None:
    return


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
    at_last_pass
        Called before the last pass goes backward: from then on no parameter gets more than one
        gradient, so that each can be reduced when it has come.
    """

    x: Inputs
    y: Tensor
    step: int
    scale: float
    complexity: Callable[[], Tensor | None]
    at_last_pass: Callable[[], None] = _nothing

    def pull_complexity(self) -> None:
        """Add the gradients of the complexity term to those of the parameters."""
        term = self.complexity()
        if term is not None and term.requires_grad:
            torch.autograd.backward(term * self.scale)


def accumulate(loss: Loss, passes: Passes, axis: Group, share: Share) -> Tensor:
    """Collective over the sample axis: add the gradients of this rank's share of the objective to
    those of the parameters and return the share of the data term, a scalar.
    """
    with passes.phases.within("backward"):
        share.pull_complexity()
    if isinstance(loss, JointLoss):
        return _joint(loss, passes, axis, share)
    values: list[Tensor] = []
    for parts in passes.draws:
        draw = passes.draw(share.x, share.step, parts)
        values += [_separable(loss, passes, share, draw, part) for part in parts]
        passes.pull(draw)
        del draw  # before the next one
    return sum(values[1:], values[0])


def _separable(
    loss: SeparableLoss, passes: Passes, share: Share, draw: Draw, part: range
) -> Tensor:
    one = passes.run(share.x, draw, part)
    value = separable_share(loss, one.each, share.y, passes.settings.samples, part)
    if part == passes.parts[-1]:
        share.at_last_pass()
    passes.backward(one, value if share.scale == 1.0 else value * share.scale)
    return value.detach()


def _joint(loss: JointLoss, passes: Passes, axis: Group, share: Share) -> Tensor:
    keep = passes.settings.keep_graphs or len(passes.parts) == 1
    keeps_draw = keep or len(passes.draws) == 1
    draws: list[Draw | None] = []
    kept: list[Pass | None] = []
    first: list[Tensor] = []
    for parts in passes.draws:
        with torch.set_grad_enabled(keeps_draw):
            draw = passes.draw(share.x, share.step, parts)
        for part in parts:
            with torch.set_grad_enabled(keep):
                one = passes.run(share.x, draw, part)
            first.append(one.outputs.detach())
            kept.append(one if keep else None)
        draws.append(draw if keeps_draw else None)
        del draw, one
    outputs = torch.cat(first).requires_grad_()
    del first
    value = joint_share(loss, outputs, share.y, axis, exact=passes.settings.exact)
    with passes.phases.within("backward"):
        torch.autograd.backward(value * share.scale)
    assert outputs.grad is not None
    gradients = iter(torch.split(outputs.grad, [len(part) for part in passes.parts]))
    for parts in passes.draws:
        draw = draws.pop(0) or passes.draw(share.x, share.step, parts)
        for part in parts:
            one = kept.pop(0) or passes.run(share.x, draw, part)
            if part == passes.parts[-1]:
                share.at_last_pass()
            passes.backward(one, one.outputs, next(gradients))
            del one
        passes.pull(draw)
        del draw
    return value.detach()
