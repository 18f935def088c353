"""What the objective asks of a loss: one number an example, of that example alone.

    objective = mean_b l_b,        l (B,)

Another shape would be averaged all the same, with another weight of data against KL: (B, B), where
outputs (B, 1) were broadcast against targets (B,), or (B, P), not summed over the points of an
example. A sum hides the first in a loss of the right shape, so a loss of one's own is also asked
once for batches in which one half is another, which must not change the numbers of the rest.

Letters: S own samples, B batch, P points.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from hpc_bnn.losses.base import Loss, to_float

# Copies go through the same kernels: what differs by more is not round-off.
TOLERANCE = 1e-4


def one_number_each(loss: Loss, value: Tensor, output: Tensor, target: Tensor) -> Tensor:
    """Return the loss ``value`` (B,) in at least float32.

    output, target: what one sample gives and what it should give, (B, ...).

    Raises
    ------
    ValueError
        If it is not one real number for each example, with a gradient where the output has one.
    """
    examples = len(target)
    problem = None
    if not isinstance(value, Tensor):
        problem = (
            f"gave {type(value).__name__} for {examples} examples; expected a tensor "
            f"({examples},): one number an example"
        )
    elif value.shape != (examples,):
        problem = (
            f"gave a loss of shape {tuple(value.shape)} for {examples} examples; expected "
            f"({examples},): one number an example (sum or mean over its points)"
        )
    elif not value.is_floating_point():
        problem = (
            f"gave a loss of {str(value.dtype).removeprefix('torch.')}; expected real "
            "floating-point numbers"
        )
    elif torch.is_grad_enabled() and output.requires_grad and not value.requires_grad:
        problem = (
            "gave a loss without a gradient to the outputs, so nothing could be learned; "
            "expected one computed from them by differentiable operations"
        )
    if problem is not None:
        given = f"outputs {tuple(output.shape)}, targets {tuple(target.shape)}"
        raise ValueError(f"{type(loss).__name__} {problem}; {given}")
    return to_float(value)


def require_apart(
    loss: Loss,
    evaluate: Callable[[Tensor, Tensor], Tensor],
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
) -> None:
    """Raise ValueError if an example's loss depends on the other examples of the batch.

    Collective over the sample axis where ``evaluate`` is. Asked once of a loss of one's own, at its
    first batch whose targets differ; the losses here are of one example by their formulas.

    evaluate: the loss (B,) of outputs (S, B, ...) and target (B, ...).
    """
    ours, examples = type(loss).__module__.startswith("hpc_bnn."), len(target)
    if ours or loss.examples_apart or examples < 2 or isinstance(outputs[0], FakeTensor):
        return
    if bool((target == target[:1]).all()):
        return  # equal targets show nothing: ask again
    with torch.no_grad():  # clones: a loss may work in place
        outputs = outputs if isinstance(outputs, Tensor) else torch.stack([*outputs])
        whole = evaluate(outputs.clone(), target.clone())
        whole = one_number_each(loss, whole, outputs[0], target)
        # One half stays, the other becomes copies of an example of it: whichever example the
        # others depend on, it is gone from one of the two batches.
        middle = examples // 2
        for kept, copied in ((range(middle), 0), (range(middle, examples), examples - 1)):
            places = [i if i in kept else copied for i in range(examples)]
            again = one_number_each(
                loss, evaluate(outputs[:, places], target[places]), outputs[0], target
            )
            own = list(kept)
            if not bool(((again - whole)[own].abs() <= TOLERANCE * whole.abs().mean()).all()):
                _refuse_mixed(loss, whole, again, own, outputs, target)
    loss.examples_apart = bool(whole.isfinite().all())


def _refuse_mixed(
    loss: Loss, whole: Tensor, again: Tensor, own: list[int], outputs: Tensor, target: Tensor
) -> None:
    """Raise ValueError for the example that differs most, unless no number is finite."""
    differences = (again - whole).abs()[own]
    if not bool(differences.isfinite().any()):
        return
    example = own[int(differences.nan_to_num(0.0).argmax())]
    raise ValueError(
        f"{type(loss).__name__} gave {float(whole[example]):.6g} for example {example} of "
        f"{len(target)}, and {float(again[example]):.6g} among other examples; expected a loss of "
        "each example alone, so that ranks can share a batch (were outputs broadcast against "
        f"targets?); outputs {tuple(outputs.shape[1:])}, targets {tuple(target.shape)}"
    )
