"""What a network gives: one tensor, for one weight sample or for several in one pass."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor


def only_tensor(output: object) -> Tensor:
    """Return the output of a network, refusing several."""
    if isinstance(output, Tensor):
        return output
    kind = type(output).__name__
    if isinstance(output, Mapping):
        held_by, take = f"{kind} with {', '.join(map(repr, output))}", repr(next(iter(output), ""))
    elif isinstance(output, tuple | list):
        held_by, take = f"{kind} of {len(output)}", "0"
    else:
        held_by, take = kind, "..."
    raise ValueError(
        f"the network gives a {held_by}, a loss needs one tensor (B, ...): wrap the network in a "
        f"module whose forward returns the one that the loss is about, such as network(x)[{take}]"
    )


@contextlib.contextmanager
def in_one_pass(samples: int) -> Iterator[None]:
    """Say what to do where ``torch.vmap`` cannot run or pull back so many samples in one pass.

    Raises
    ------
    ValueError
        Instead of what torch says of its own inside.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        memory = isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in reason
        if samples == 1 or memory:
            raise
        raise ValueError(
            "posterior.samples_per_pass: the network cannot run several weight samples in one pass "
            f"of torch.vmap ({reason}); set samples_per_pass to 1"
        ) from error
