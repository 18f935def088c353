"""The training objective and the share of it that each rank computes.

    objective = mean_b l_b + (kl_weight / N) KL(q || p)

Gradients are SUMMED over the sample axis (S ranks) and AVERAGED over the data axis, so a rank's
share is

    separable loss:  sum over own samples of mean_b l_sb / K + (kl_weight / N) KL / S
    joint loss:      mean_b l_b, differentiable in the own samples only + (kl_weight / N) KL / S.

With ``exact=False`` a joint loss sees the samples of its own rank alone and the ranks are averaged,
as published implementations do: another objective, which depends on the grid.
"""

from collections.abc import Sequence

from torch import Tensor

from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.losses.each_example import one_number_each, require_apart


def kl_factor(step: int, *, kl_weight: float, warmup_steps: int, num_examples: int) -> float:
    """Return the factor of the KL at ``step`` (from 0), rising linearly to kl_weight / N over the
    warm-up.
    """
    warm = 1.0 if warmup_steps == 0 else min(1.0, (step + 1) / warmup_steps)
    return warm * kl_weight / num_examples


def separable_share(
    loss: SeparableLoss,
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    total_samples: int,
    samples: Sequence[int] | None = None,
) -> Tensor:
    """Return the part of mean_b l_b that the own outputs (S, B, ...) contribute, a scalar.

    samples: their global indices; None: from 0 on.
    """
    own = range(len(outputs)) if samples is None else samples
    targets = [loss.target_of(target, sample) for sample in own]
    require_apart(loss, lambda outputs, target: loss(outputs[0], target), outputs, targets[0])
    shares = [
        one_number_each(loss, loss(output, y), output, y).mean()
        for output, y in zip(outputs, targets, strict=True)
    ]
    total = sum(shares[1:], shares[0])
    return total / total_samples


def joint_share(
    loss: JointLoss, outputs: Tensor, target: Tensor, axis: Group, *, exact: bool = True
) -> Tensor:
    """Collective over the sample axis: return mean_b l_b with the gradient of the own outputs (S,
    B, ...).
    """
    seen = axis if exact else ALONE
    require_apart(loss, lambda outputs, target: loss(outputs, target, seen), outputs, target)
    value = one_number_each(loss, loss(outputs, target, seen), outputs[0], target).mean()
    return value if exact else value / axis.size
