"""What a network that is not pure is refused for, each with what to do about it.

Letters: B examples, S samples.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hpc_bnn.bayes.attention_dropout import keyed_attention
from hpc_bnn.bayes.dropout import CHANNELWISE, KeyedDropout
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors

# What a pass runs in: autocast, keyed dropout.
Surroundings = Callable[[], contextlib.AbstractContextManager[KeyedDropout | None]]

# Relative differences that rounding explains, of one pass in another order of operations.
ROUNDING = {torch.float64: 1e-9, torch.complex128: 1e-9, torch.float32: 1e-3, torch.complex64: 1e-3}
ROUNDING_HALF = 5e-2
SHARE_OF_LARGEST = 1e-3  # of the largest gradient of a network, whose rounding shows in others

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


def refuse_changed_parameters(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Raise ImpureError for the first parameter that a pass changed, after putting all back."""
    changed = [n for n, p in module.named_parameters() if n in before and not _equal(p, before[n])]
    with torch.no_grad():
        for name in changed:
            module.get_parameter(name).copy_(before[name])
    if changed:
        raise ImpureError(
            f"parameter {changed[0]} changes in the forward pass (nn.Embedding(max_norm=...), an "
            "assignment to its .data): it would differ between ranks. Change a copy of it, or do "
            f"so after the step on every rank {SWITCH}"
        )


def refuse_changed_buffers(module: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Raise ImpureError for the first buffer that a pass changed, after putting all back."""
    changed = []
    for name, buffer in module.named_buffers():
        kept = before.get(name)
        if kept is None or not _equal(buffer, kept):
            changed.append(name)
        if kept is not None and kept.shape == buffer.shape:
            buffer.detach().copy_(kept)
    if changed:
        owner = type(module.get_submodule(changed[0].rpartition(".")[0])).__name__
        raise ImpureError(
            f"buffer {changed[0]} of {owner} changes in the forward pass: it would mix the weight "
            "samples and differ between ranks. Compute it from the input, hold that layer in "
            f"evaluation mode, or use nn.LayerNorm or nn.GroupNorm {SWITCH}"
        )


def _equal(first: Tensor, second: Tensor) -> bool:
    nan = first.is_floating_point() or first.is_complex()
    first, second = first.detach().to_dense(), second.to_dense()
    return first.shape == second.shape and bool(
        torch.allclose(first, second, rtol=0.0, atol=0.0, equal_nan=True)
        if nan
        else torch.equal(first, second)
    )


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


def refuse_mixed_examples(network: nn.Module, x: Inputs, surroundings: Surroundings) -> None:
    """Raise ImpureError unless outputs and dropped activations for ``x`` (B, ...) follow its
    examples to other batches.

    A batch is compared with each of its halves: whichever example the others depend on, one half is
    without it, and dimensions that hold no examples keep their size.
    """
    examples = count_examples(x)
    outputs, dropped = _run(network, map_tensors(torch.clone, x), surroundings)
    middle = examples // 2
    halves = [list(range(middle, examples)), list(range(middle))]
    for places in halves if middle else [[0, 0]]:
        other = taken(x, places)
        if not middle:  # a single example stands twice, the second time as another one
            other = map_tensors(_second_changed, other)
        try:
            moved, dropped_moved = _run(network, other, surroundings)
        except Exception as error:  # of whatever is made for one size
            raise ImpureError(
                f"the network computes a batch of {examples} examples but not one of {len(places)} "
                f"({error}): how many a rank holds depends on the grid. Compute any number of "
                f"examples {SWITCH}"
            ) from error
        for (shape, here), (_, there) in zip(dropped, dropped_moved, strict=False):
            if not _follows(here, there, examples, places):
                raise ImpureError(
                    f"dropout on an activation of shape {shape}: its first dimension does not hold "
                    f"the {examples} examples of the batch one after the other, so a mask would "
                    "belong to something else than an example and depend on the grid of ranks. Put "
                    "the batch first: batch_first=True, or transpose before and after the dropout "
                    f"{SWITCH}"
                )
        if not _follows(outputs, moved, examples, places):
            raise ImpureError(
                f"the outputs {tuple(outputs.shape)} for {examples} examples: that of an example "
                "depends on the others of its batch, or stands elsewhere than in its place of the "
                "first dimension (a mean over the batch, attention between examples, sequence "
                "first), so it would depend on how ranks share the batch. Compute each example by "
                f"itself {SWITCH}"
            )


def taken(x: Inputs, places: list[int]) -> Inputs:
    """Return the batch of the examples of ``x`` (B, ...) that stand in ``places``."""
    examples = count_examples(x)

    def take(tensor: Tensor) -> Tensor:
        holds_examples = tensor.dim() > 0 and len(tensor) == examples
        return tensor[places] if holds_examples else tensor.clone()

    return map_tensors(take, x)


class _DropoutRows(TorchFunctionMode):
    """Leave dropout out of a forward pass, and note what it would have dropped.

    Attributes
    ----------
    rows
        Of each dropout call: the shape of the activation, and two sums (rows, 2) over each of its
        rows, entries of its first dimension.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[tuple[int, ...], Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        drops = func is functional.dropout or func in CHANNELWISE
        note = self._note if drops else keyed_attention(func, self._note)
        return (note or func)(*args, **kwargs)

    def _note(
        self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if training and p > 0.0 and input.dim() > 0:
            each = input.detach().to(torch.float32).reshape(len(input), -1)
            self.rows.append((tuple(input.shape), torch.stack([each.sum(1), each.norm(dim=1)], 1)))
        return input


def _run(
    network: nn.Module, x: Inputs, surroundings: Surroundings
) -> tuple[Tensor, list[tuple[tuple[int, ...], Tensor]]]:
    """Return the outputs without dropout, and the rows of what it would have dropped."""
    with torch.no_grad(), surroundings(), _DropoutRows() as dropped:
        outputs: Tensor = network(x)
    return outputs, dropped.rows


def _second_changed(tensor: Tensor) -> Tensor:
    if tensor.dim() == 0 or len(tensor) != 2 or not tensor.is_floating_point():
        return tensor
    return torch.stack([tensor[0], 1.25 * tensor[1]])


def _follows(here: Tensor, there: Tensor, examples: int, places: list[int]) -> bool:
    """Tell whether the rows (B n, ...) of each example are in its new places."""
    if min(here.dim(), there.dim()) == 0 or len(here) == 0 or len(here) % examples:
        return False
    rows = torch.unflatten(here, 0, (examples, -1))[places].flatten(0, 1)
    if examples > 1:
        return close(there, rows)
    return len(there) == len(rows) and close(there[: len(here)], here)
