"""Batches in a piece of memory: views of it, aligned, and nothing overlaps."""

import pytest
import torch

from hpc_bnn.data.batch_layout import ALIGNED, BatchLayout


def layout(examples: int) -> BatchLayout:
    """Batches of x (B, 3, 5) float32 and y (B,) int64, learned from two examples."""
    return BatchLayout.like(torch.zeros(2, 3, 5), torch.zeros(2, dtype=torch.int64), examples)


def test_what_is_learned() -> None:
    made = layout(7)
    assert made == BatchLayout(7, ((3, 5), ()), (torch.float32, torch.int64))
    assert made.batch_bytes == 7 * 60 + 7 * 8
    assert made.slot_bytes == 448 + 64
    x, y = made.empty(4)
    assert (x.shape, x.dtype) == ((4, 3, 5), torch.float32)
    assert (y.shape, y.dtype) == ((4,), torch.int64)


@pytest.mark.parametrize("examples", [1, 2, 7, 8])
def test_views_share_the_memory_and_do_not_overlap(examples: int) -> None:
    made = layout(examples)
    memory = torch.zeros(made.slot_bytes, dtype=torch.uint8)
    x, y = made.place(memory)
    assert (x.shape, x.dtype) == ((examples, 3, 5), torch.float32)
    assert (y.shape, y.dtype) == ((examples,), torch.int64)
    for tensor in (x, y):
        assert (tensor.data_ptr() - memory.data_ptr()) % ALIGNED == 0
        assert memory.data_ptr() <= tensor.data_ptr()
        assert tensor.data_ptr() + tensor.nbytes <= memory.data_ptr() + memory.nbytes
    x.fill_(1.0)
    y.fill_(-1)
    assert bool((x == 1).all())
    x.fill_(2.0)
    assert bool((y == -1).all())
    assert int((memory == 255).sum()) == 8 * examples
