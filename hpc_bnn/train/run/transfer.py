"""Tensors on their way between the rank that reads or writes a checkpoint and those that hold its
content: in parts, so that however large a tensor is, a rank needs memory for one part besides its
own.

Letters: K weight samples over the whole grid, S held here.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hpc_bnn.bayes.rows import Rows
from hpc_bnn.group import Group

PART_BYTES = 64 << 20


@torch.no_grad()
def hand_out(ranks: Group, target: Tensor | Rows, source: Tensor, *, name: str) -> None:
    """Collective: overwrite ``target`` with the ``source`` of rank 0, of which an outline suffices
    elsewhere; rows with those of the same weight samples.

    What lies on the CPU in one piece is filled in place.
    """
    tensor = target if isinstance(target, Tensor) else target.tensor
    whole = tensor.is_contiguous()
    own = (
        tensor.detach()
        if whole
        else torch.empty_like(tensor, memory_format=torch.contiguous_format)
    ).view(-1)
    begin = 0
    if isinstance(target, Rows):
        begin = target.samples.start * (own.numel() // max(1, len(tensor)))
    content = source.contiguous().view(-1) if ranks.rank == 0 else None
    in_place = own.is_cpu and own.dtype == source.dtype
    for first, stop in _parts(source.numel(), source.element_size()):
        low, high = max(first, begin), min(stop, begin + own.numel())
        here = own[low - begin : high - begin] if low < high else own[:0]
        if content is not None:
            part = content[first:stop]
        elif in_place and len(here) == stop - first:
            part = here
        else:
            part = torch.empty(stop - first, dtype=source.dtype)
        ranks.broadcast_tensor(part, name=name)
        if len(here) and part is not here:
            here.copy_(part[low - first : high - first])
    if not whole:
        tensor.copy_(own.view(tensor.shape))


@torch.no_grad()
def collect_rows(rows: Rows, sample_axis: Group, *, name: str) -> Tensor:
    """Collective over the sample axis: return all rows (K, ...) on its first rank, on the CPU where
    there are several ranks, and an outline elsewhere.

    Ranks hold equally many, in the order of the axis.
    """
    size, own = sample_axis.size, rows.tensor.detach()
    if size == 1:
        return own
    shape = (size * len(own), *own.shape[1:])
    device = "cpu" if sample_axis.rank == 0 else "meta"
    everyone = torch.empty(shape, dtype=own.dtype, device=device)
    # As bytes, since numpy knows fewer types.
    mine = own.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
    for first, stop in _parts(len(mine), size):
        gathered = sample_axis.gather_tensor(mine[first:stop].cpu(), name=name)
        if gathered is not None:
            everyone.view(-1).view(torch.uint8).view(size, -1)[:, first:stop] = gathered
    return everyone


def _parts(count: int, bytes_each: int) -> Iterator[tuple[int, int]]:
    """Yield first and end of parts of ``count`` elements."""
    length = max(1, PART_BYTES // bytes_each)
    for first in range(0, count, length):
        yield first, min(first + length, count)
