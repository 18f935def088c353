"""Several weight samples in one forward pass, and what a network that cannot do it is told."""

from collections.abc import Callable

import torch
from torch import Tensor

# In the words of torch.vmap: no rule for an operation, control flow by numbers, work in place,
# random layers.
REFUSALS = ("atching rule", "vmap", "functorch")


def over_samples(
    run: Callable[[dict[str, Tensor], Tensor], Tensor],
    weights: dict[str, Tensor],
    x: Tensor,
    *,
    views: bool,
) -> Tensor:
    """Return ``run`` (S, B, ...) on each sample of ``weights`` (S, ...), by ``torch.vmap``.

    views: x is (S, B, ...), one batch a sample, instead of (B, ...).

    Raises
    ------
    ValueError
        If the network holds what ``torch.vmap`` cannot do, such as nn.LSTM.
    """
    try:
        outputs: Tensor = torch.vmap(run, in_dims=(0, 0 if views else None))(weights, x)
    except RuntimeError as error:
        if not any(word in str(error) for word in REFUSALS):
            raise
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            "posterior.samples_per_pass: the network cannot run several weight samples in one "
            f"pass of torch.vmap ({reason}); set samples_per_pass to 1"
        ) from error
    return outputs
