"""Tensors that lie apart in memory, as one kernel reads them in one launch.

Their elements follow on each other in one row of numbers (N,), as the noise counts them. A program
takes a *piece* of ``PIECE`` places of that row, which begins with a Philox block and holds elements
of one tensor. Where a piece lies is read from a table on the device, made once for tensors that
stay where they are:

    start        place of its first number, up to three before ``begin``
    begin, end   places of the elements of its tensor
    shifts       what to add to a place to find its element, counted from the first of the tensors
    more         a number that belongs to the tensor

A tensor by itself is one line of the table, whatever its size.
"""

from collections.abc import Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from hpc_bnn.bayes.philox_triton import BLOCKS, PIECE

COLUMNS = tl.constexpr(6)


@triton.jit
def piece(table, per_line):
    """Return start, begin, end, both shifts and what more there is of this program's piece."""
    program = tl.program_id(0)
    line = table + (program // per_line).to(tl.int64) * COLUMNS
    start = tl.load(line) + (program % per_line).to(tl.int64) * (4 * BLOCKS)
    begin, end = tl.load(line + 1), tl.load(line + 2)
    return start, begin, end, tl.load(line + 3), tl.load(line + 4), tl.load(line + 5)


@triton.jit
def is_whole(start, begin, end, shift, other_shift, pitch):
    """Tell whether a piece is full of elements and aligned to 16 bytes in all that it reads."""
    aligned = ((start | shift | other_shift | pitch) & 3) == 0
    return aligned & (start >= begin) & (start + 4 * BLOCKS <= end)


@triton.jit
def fours(number):
    """Return a multiple of four, in a form from which the compiler knows that it is one."""
    return (number >> 2) * 4


class Pieces:
    """The pieces of tensors of float32 whose row begins at ``offset`` of a stream.

    Parameters
    ----------
    tensors
        Those that make the row.
    others
        As many of the same sizes, or one tensor that begins with a whole row.
    more
        A number for each of ``tensors``.

    Attributes
    ----------
    table
        Of all lines, on the device.
    programs
        How many there are to launch, ``per_line`` for each line.
    base, other_base
        What the shifts count from; aligned to 16 bytes, which Triton would make a variant of.
    """

    def __init__(
        self,
        offset: int,
        tensors: Sequence[Tensor],
        others: Sequence[Tensor],
        more: Sequence[int] | None = None,
    ) -> None:
        sizes = tuple(tensor.numel() for tensor in tensors)
        self.base, self.other_base = _aligned(tensors[0]), _aligned(others[0])
        shifts = [
            _shifts(each, each_base, sizes)
            for each, each_base in ((tensors, self.base), (others, self.other_base))
        ]
        rest = tuple(more or [0] * len(sizes))
        self.table = _table(tensors[0].device, offset % 4, sizes, *shifts, rest)
        alone = len(sizes) == 1
        self.per_line = triton.cdiv(offset % 4 + sizes[0], PIECE) if alone else 1
        self.programs = len(self.table) * self.per_line


def _aligned(tensor: Tensor) -> Tensor:
    """Return the tensor, from the 16 bytes on in which its first element lies."""
    before = tensor.data_ptr() % 16 // 4
    return tensor.as_strided((1,), (1,), tensor.storage_offset() - before) if before else tensor


def _shifts(tensors: Sequence[Tensor], base: Tensor, sizes: tuple[int, ...]) -> tuple[int, ...]:
    first, begin, shifts = base.data_ptr(), 0, []
    for tensor, size in zip(tensors, sizes, strict=False):
        shifts.append((tensor.data_ptr() - first) // 4 - begin)
        begin += size
    # One tensor that holds the whole row has one shift for all.
    return tuple(shifts) if len(shifts) == len(sizes) else tuple(shifts) * len(sizes)


@cache  # never dropped: captured launches read a table where it lies
def _table(
    device: torch.device, skip: int, sizes: tuple[int, ...], *columns: tuple[int, ...]
) -> Tensor:
    lines: list[Tensor] = []
    begin = 0
    for size, *column in zip(sizes, *columns, strict=True):
        before = (skip + begin) % 4
        count = 1 if len(sizes) == 1 else triton.cdiv(before + size, PIECE)
        start = begin - before + PIECE * torch.arange(count)
        rest = torch.tensor([begin, begin + size, *column]).expand(count, -1)
        lines.append(torch.cat([start[:, None], rest], 1))
        begin += size
    return torch.cat(lines).to(device)
