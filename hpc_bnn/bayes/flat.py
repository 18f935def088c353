"""Small tensors taken together as one row of numbers, since a call costs as much as thousands of
weights.

Letters: S samples, N elements of all tensors of a group.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SMALL = 1 << 16  # elements from which on copying a tensor costs more than its own calls
TOGETHER = 1 << 18  # elements of a group: its gradients are ready together, so not too many


def groups(tensors: Sequence[Tensor], kinds: Sequence[object]) -> Iterator[slice]:
    """Cut ``tensors`` into runs of small ones that are alike in dtype, device and ``kinds``, and
    large ones alone.
    """
    first, size = 0, 0
    alike = [
        (tensor.dtype, tensor.device, kind) for tensor, kind in zip(tensors, kinds, strict=True)
    ]
    for position, tensor in enumerate(tensors):
        count = tensor.numel() if tensor.numel() <= SMALL else TOGETHER
        if position > first and (alike[position] != alike[first] or size + count > TOGETHER):
            yield slice(first, position)
            first, size = position, 0
        size += count
    yield slice(first, len(tensors))


def flatten(tensors: Sequence[Tensor], *, samples: bool = False) -> Tensor:
    """Return the elements (N,) of all tensors in C order, those of a single one uncopied where it
    has that order; with ``samples`` (S, N) of tensors (S, ...).
    """
    if samples:  # a parameter of one number has no dimension behind that of the samples
        tensors = [tensor.unsqueeze(-1) for tensor in tensors]
    # Gradients of an embedding may be sparse.
    rows = [tensor.to_dense().flatten(int(samples)) for tensor in tensors]
    return rows[0].contiguous() if len(rows) == 1 else torch.cat(rows, -1)


def unflatten(row: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return the tensors (..., *shape) of ``row`` (..., N) as views."""
    parts = torch.split_with_sizes(row, [shape.numel() for shape in shapes], -1)
    return [part.view((*row.shape[:-1], *shape)) for part, shape in zip(parts, shapes, strict=True)]
