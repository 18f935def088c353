"""Tensors of checkpoints travel in parts: bit for bit, of any size and type, in bounded memory."""

import pytest
import torch
from thread_group import ThreadGroup, on_ranks
from torch import Tensor

from hpc_bnn.bayes.rows import Rows
from hpc_bnn.group import ALONE, Group
from hpc_bnn.train.run import transfer
from hpc_bnn.train.run.transfer import collect_rows, hand_out

DTYPES = [
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.uint8),
    *(torch.int64, torch.complex64),
]
PART = 48  # bytes: 6 of float64, 48 of bool
MEMBERS = 12


def some(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 7 % 11 - 3
    return (
        values.clamp(min=0).to(dtype).view(shape)
        if dtype == torch.uint8
        else ((values > 0).view(shape) if dtype == torch.bool else values.to(dtype).view(shape))
    )


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", PART)


def source_of(group: Group, whole: Tensor) -> Tensor:
    """What a rank has of a checkpoint: all of it, or its outline."""
    return whole if group.rank == 0 else torch.empty_like(whole, device="meta")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (6,), (7,), (49,), (5, 4, 3)], ids=str)
def test_shared_tensors(shape: tuple[int, ...], ranks: int, dtype: torch.dtype) -> None:
    whole = some(shape, dtype)
    before = whole.clone()

    def rank(group: ThreadGroup) -> Tensor:
        target = torch.ones(shape, dtype=dtype)
        hand_out(group, target, source_of(group, whole), name="tensor")
        assert len(group.calls) == -(-whole.nbytes // PART)
        return target

    for target in on_ranks(ranks, rank):
        assert torch.equal(target, whole)
    assert torch.equal(whole, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("row", [(), (0,), (1,), (5,), (13, 3)], ids=str)
def test_rows_there_and_back(row: tuple[int, ...], ranks: int, dtype: torch.dtype) -> None:
    whole = some((MEMBERS, *row), dtype)
    count = MEMBERS // ranks

    def rank(group: ThreadGroup) -> Tensor:
        samples = range(group.rank * count, (group.rank + 1) * count)
        own = Rows(torch.ones((count, *row), dtype=dtype), samples)
        hand_out(group, own, source_of(group, whole), name="rows")
        assert torch.equal(own.tensor, whole[samples.start : samples.stop])
        return collect_rows(own, group, name="rows")

    first, *others = on_ranks(ranks, rank)
    assert torch.equal(first, whole)
    for outline in others:
        assert outline.is_meta
        assert (outline.shape, outline.dtype) == (whole.shape, whole.dtype)


def test_rows_of_a_part_of_the_ranks_alone() -> None:
    """A process by itself may hold some members."""
    whole = some((MEMBERS, 5), torch.float32)
    own = Rows(torch.zeros(3, 5), range(4, 7))
    hand_out(ALONE, own, whole, name="rows")
    assert torch.equal(own.tensor, whole[4:7])


@pytest.mark.parametrize("ranks", [1, 3])
def test_targets_of_another_type_or_layout(ranks: int) -> None:
    """Averages in float32 become weights in bfloat16; a weight may lie channels last."""
    whole = some((4, 3, 5, 2), torch.float32)

    def rank(group: ThreadGroup) -> tuple[Tensor, Tensor]:
        narrow = torch.zeros(4, 3, 5, 2, dtype=torch.bfloat16)
        last = torch.zeros(4, 3, 5, 2).to(memory_format=torch.channels_last)
        for target in (narrow, last):
            hand_out(group, target, source_of(group, whole), name="tensor")
        assert last.is_contiguous(memory_format=torch.channels_last)
        return narrow, last

    for narrow, last in on_ranks(ranks, rank):
        assert torch.equal(narrow, whole.bfloat16())
        assert torch.equal(last, whole)


def test_a_source_in_another_layout() -> None:
    whole = some((4, 3, 5, 2), torch.float32).to(memory_format=torch.channels_last)
    target = torch.zeros(4, 3, 5, 2)
    hand_out(ALONE, target, whole, name="tensor")
    assert torch.equal(target, whole)


def test_no_message_is_larger_than_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    broadcast = ThreadGroup.broadcast_tensor

    def counted(group: ThreadGroup, x: Tensor, *, name: str) -> None:
        sizes.append(x.nbytes)
        broadcast(group, x, name=name)

    monkeypatch.setattr(ThreadGroup, "broadcast_tensor", counted)
    whole = some((100,), torch.float64)

    def rank(group: ThreadGroup) -> None:
        hand_out(group, torch.zeros(100).double(), source_of(group, whole), name="tensor")

    on_ranks(2, rank)
    assert len(sizes) == 2 * 17
    assert max(sizes) <= PART
