"""What a network that is not pure is told with, and when two results count as equal."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import KeyedDropout

# What a pass runs in: autocast, keyed dropout.
Surroundings = Callable[[], contextlib.AbstractContextManager[KeyedDropout | None]]

# Relative differences that rounding explains, of one pass in another order of operations.
ROUNDING = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-3, torch.complex64: 1e-3}
ROUNDING_HALF = 5e-2

SWITCH = "(check=False leaves this check out)"


class ImpureError(ValueError):
    """A network does not give the same outputs whenever, wherever and with whomever it is run."""


def rounding(*dtypes: torch.dtype) -> float:
    """Return the relative difference that rounding explains, of the narrowest type."""
    return max(ROUNDING.get(dtype, ROUNDING_HALF) for dtype in dtypes)


def close(first: Tensor | None, second: Tensor | None, *, floor: float = 0.0) -> bool:
    """Tell whether two tensors are equal but for rounding, or for ``floor``; None and NaN equal
    themselves.
    """
    if first is None or second is None:
        return first is second
    if first.shape != second.shape:
        return False
    bound = rounding(first.dtype, second.dtype)
    wide = torch.complex128 if first.is_complex() else torch.float64
    dense = (t.to_dense() for t in (first, second))  # gradients of an embedding may be sparse
    a, b = (torch.nan_to_num(t.to(wide), nan=1.0, posinf=2.0, neginf=3.0) for t in dense)
    return bool((a - b).norm() <= bound * b.norm() + floor + torch.finfo(torch.float32).tiny)


def label(name: str, layer: nn.Module) -> str:
    """Return what a message calls a layer."""
    return f"{name} ({type(layer).__name__})" if name else f"the network ({type(layer).__name__})"
