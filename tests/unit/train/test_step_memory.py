"""Peak memory of a step is that of one network, whatever the number of weight samples.

Counted in bytes of tensors that autograd holds for backward at the same time, not in memory of the
process.
"""

import pytest
import torch
from torch import Tensor
from toy_step import OUTPUTS, Toy, batch

EXAMPLES = 32


class Saved:
    """A tensor that autograd holds; gone when its graph is."""

    def __init__(self, tensor: Tensor, ledger: "Ledger") -> None:
        self.tensor, self._ledger = tensor, ledger
        ledger.live += tensor.nbytes
        ledger.peak = max(ledger.peak, ledger.live)

    def __del__(self) -> None:
        self._ledger.live -= self.tensor.nbytes


class Ledger:
    """Bytes held now and at most."""

    def __init__(self) -> None:
        self.live = self.peak = 0


def peak_bytes(loss: str, samples: int, samples_per_pass: int = 1) -> int:
    toy, ledger = Toy(loss, samples=samples, samples_per_pass=samples_per_pass), Ledger()
    x, y = batch(loss, examples=EXAMPLES)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: Saved(tensor, ledger), lambda saved: saved.tensor
    ):
        toy.step(x, y)
    assert ledger.live == 0, "a graph outlives its step"
    assert ledger.peak > 0
    return ledger.peak


@pytest.mark.parametrize("loss", ["gaussian", "categorical", "gaussian predicted"])
def test_separable_losses_need_the_same_for_any_number_of_samples(loss: str) -> None:
    assert peak_bytes(loss, 32) == peak_bytes(loss, 2) == peak_bytes(loss, 1)


@pytest.mark.parametrize("loss", ["crps", "almost fair crps", "moments", "gaussian predictive"])
def test_joint_losses_add_outputs_only(loss: str) -> None:
    """Recomputed, not kept: 24 more samples may add a few numbers an output, never a network."""
    per_output = 8 * 8 * EXAMPLES * OUTPUTS  # eight float64 an output
    few, many = peak_bytes(loss, 8), peak_bytes(loss, 32)
    assert many - few <= 24 * per_output
    kept = peak_bytes(loss, 32, samples_per_pass=32)
    assert kept > 3 * many


def test_the_count_sees_what_is_kept() -> None:
    assert peak_bytes("gaussian", 16, samples_per_pass=16) > 8 * peak_bytes("gaussian", 16)
