"""Inputs of a network: a tensor, or a tuple, list or dict of tensors and whatever else.

The first dimension of tensors enumerates the examples of a batch. A network gets its input as one
argument, as a data set gives it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils import _pytree as tree

Inputs = Any  # Tensor | tuple | list | dict | NamedTuple, nested


def tensors_of(x: Inputs) -> list[Tensor]:
    """Return the tensors of an input, in the order of its structure."""
    if isinstance(x, Tensor):
        return [x]
    return [leaf for leaf in tree.tree_leaves(x) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Tensor], x: Inputs) -> Inputs:
    """Return an input of the same structure whose tensors are those that ``function`` makes."""
    if isinstance(x, Tensor):
        return function(x)
    return tree.tree_map_only(Tensor, function, x)


def count_examples(x: Inputs) -> int:
    """Return B, the number of examples of an input.

    Raises
    ------
    ValueError
        If there is no tensor, or the first one has no dimension.
    """
    tensors = tensors_of(x)
    if not tensors or tensors[0].dim() == 0:
        what = "a number" if tensors else f"{type(x).__name__} without a tensor"
        raise ValueError(
            f"x is {what}: expected a tensor (B, ...), or a tuple, list or dict of such tensors"
        )
    return len(tensors[0])


def positions_of(x: Inputs, positions: Sequence[int] | None = None) -> Sequence[int]:
    """Return ``positions`` (B,), having checked that there is one for each example of ``x``; of
    None, 0 to B - 1.
    """
    examples = count_examples(x)
    if positions is not None and len(positions) != examples:
        raise ValueError(
            f"{len(positions)} positions for {examples} examples: give each example one"
        )
    return range(examples) if positions is None else positions


def versions(x: Inputs) -> list[int] | None:
    """Return how often each tensor of an input was written to; None where torch does not count
    (``torch.inference_mode``).
    """
    if isinstance(x, Tensor):
        return None if x.is_inference() else [x._version]
    tensors = tensors_of(x)
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return [tensor._version for tensor in tensors]
