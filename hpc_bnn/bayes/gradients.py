"""Compares the gradients of a network on held weights with those of a plain copy."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hpc_bnn.bayes.impure import SWITCH, ImpureError, close, rounding

SHARE_OF_LARGEST = 1e-3  # of the largest gradient of a network, whose rounding shows in others


def refuse_other_gradients(
    gradients: Mapping[str, Tensor | None], plain: Mapping[str, Tensor | None]
) -> None:
    """Raise ImpureError for the first gradient (S, *shape) that is not that of the plain network.

    None: there is none.
    """
    norms = [
        gradient.double().norm()
        for gradient in plain.values()
        if gradient is not None and bool(gradient.isfinite().all())
    ]
    # The gradient of a bias that a norm or a softmax takes away is rounding of larger numbers.
    largest = float(torch.stack(norms).max()) if norms else 0.0
    for name, gradient in gradients.items():
        expected = plain[name]
        if gradient is None or expected is None:
            if gradient is expected:
                continue
            how = "is missing" if gradient is None else "is there where the plain network has none"
        else:
            floor = SHARE_OF_LARGEST * rounding(gradient.dtype) * largest
            if close(gradient, expected, floor=floor):
                continue
            error = (gradient.to_dense() - expected).double().norm()
            relative = float(error / expected.double().norm().clamp_min(1e-300))
            how = f"is off by {relative:.1g} of its norm"
        raise ImpureError(
            f"the gradient of {name} {how}, though all outputs are equal: something cuts or "
            "changes the way back (a tensor kept from an earlier call, a hook that clamps "
            "gradients of activations, which each rank pulls with its share, a function that "
            "reads weights when backward runs, activation checkpointing with several samples a "
            f"pass: set posterior.samples_per_pass to 1) {SWITCH}"
        )
