"""Points without values: every loss is that of the other points alone, to the last digit it has.

Letters: S samples, B examples, C channels, H latitude, W longitude, P points with values.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import Loss, SeparableLoss

S, B, C, H, W = 3, 2, 2, 4, 5
TIGHT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}
LOSSES: dict[str, Callable[..., Loss]] = {
    "crps": losses.crps,
    "fair crps": losses.fair_crps,
    "fair crps, transposed": lambda **o: losses.fair_crps(layout="transposed", **o),
    "almost fair crps": losses.almost_fair_crps,
    "energy score": losses.energy_score,
    "energy score, transposed": lambda **o: losses.energy_score(layout="transposed", **o),
    "mae": losses.mae,
    "mse": losses.mse,
    "moments": lambda **o: losses.gaussian_moments(sigma=0.7, learned=True, **o),
    "nll fixed": lambda **o: losses.gaussian_nll(sigma=0.7, **o),
    "nll learned": lambda **o: losses.gaussian_nll(variance="learned", **o),
    "nll predicted": lambda **o: losses.gaussian_nll(variance="predicted", **o),
    "nll predictive": lambda **o: losses.gaussian_nll(variance="predicted", predictive=True, **o),
}


def present() -> Tensor:
    """A mask that is another one in each channel: 13 and 18 of 20 points."""
    made = torch.ones(C, H, W, dtype=torch.bool)
    made[0, 1:3, 1:4] = made[0, 0, 0] = made[1, 3, 2:4] = False
    return made


def weights() -> Tensor:
    rows = torch.tensor([0.4, 1.3, 1.2, 0.5], dtype=torch.float64)
    return torch.tensor([2.0, 1.0], dtype=torch.float64)[:, None, None] * rows[:, None]


def outputs_and_target(loss: Loss) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    channels = loss.output_shape((C, H, W))[0]
    outputs = torch.randn(S, B, channels, H, W, generator=generator, dtype=torch.float64)
    return outputs, torch.randn(B, C, H, W, generator=generator, dtype=torch.float64)


def value_of(loss: Loss, outputs: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the loss (B,) and its gradients to outputs and parameters."""
    outputs = outputs.clone().requires_grad_()
    if isinstance(loss, SeparableLoss):
        value = torch.stack([loss(output, target) for output in outputs]).mean(0)
    else:
        value = loss(outputs, target, ALONE)
    # Another weight for each example, so that they cannot be exchanged.
    (value * torch.arange(1.0, B + 1)).sum().backward()
    assert outputs.grad is not None
    return value.detach(), [
        outputs.grad,
        *(p.grad for p in loss.parameters() if p.grad is not None),
    ]


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_points_with_values(name: str, weighted: bool) -> None:
    """Value and gradients, against the same loss on examples that hold nothing else."""
    there, given = present(), {"weights": weights()} if weighted else {}
    loss = LOSSES[name](present=there, **given).double()
    outputs, target = outputs_and_target(loss)
    value, gradients = value_of(loss, outputs, target)

    flat = weights().expand(C, H, W)[there] if weighted else None
    # (B, 1, P): one "channel", so that a predicted variance is the second.
    alone = LOSSES[name](weights=flat).double()
    few = torch.stack([part[..., there] for part in outputs.split(C, 2)], 2)
    expected, wanted = value_of(alone, few, target[..., there][:, None])
    torch.testing.assert_close(value, expected, **TIGHT)
    for part, want in zip(gradients[0].split(C, 2), wanted[0].unbind(2), strict=True):
        torch.testing.assert_close(part[..., there], want, **TIGHT)
        assert bool((part[..., ~there] == 0).all())
    assert len(gradients) == len(wanted)
    for got, want in zip(gradients[1:], wanted[1:], strict=True):
        torch.testing.assert_close(got, want, **TIGHT)


@pytest.mark.parametrize("name", LOSSES)
def test_outputs_at_points_without_values_change_nothing(name: str) -> None:
    there = present()
    loss = LOSSES[name](present=there, weights=weights()).double()
    outputs, target = outputs_and_target(loss)
    value, gradients = value_of(loss, outputs, target)
    other = outputs.clone()
    for part in other.split(C, 2):
        part[..., ~there] = 37.0 - 5 * part[..., ~there]
    again, same = value_of(loss, other, target)
    assert torch.equal(value, again)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_that_hides_nothing_changes_nothing(name: str) -> None:
    whole = torch.ones(C, H, W, dtype=torch.bool)
    one = LOSSES[name](present=whole, weights=weights()).double()
    two = LOSSES[name](weights=weights()).double()
    outputs, target = outputs_and_target(one)
    (value, gradients), (expected, wanted) = (value_of(x, outputs, target) for x in (one, two))
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


def test_a_gaussian_nll_is_the_sum_over_points_with_values() -> None:
    """By torch's own densities: what was not observed adds nothing to the likelihood."""
    loss = losses.gaussian_nll(sigma=0.5, present=present())
    assert isinstance(loss, SeparableLoss)
    outputs, target = outputs_and_target(loss)
    density = torch.distributions.Normal(outputs[0], 0.5).log_prob(target)
    torch.testing.assert_close(
        loss(outputs[0], target), -(density * present()).sum((1, 2, 3)), rtol=1e-6, atol=1e-6
    )


def test_a_mask_that_hides_everything_is_refused() -> None:
    nothing = torch.zeros(C, H, W, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"loss\.weights: from 0\.0 to 0\.0"):
        losses.crps(present=nothing)
