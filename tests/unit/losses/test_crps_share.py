"""The transposed CRPS moves and keeps a rank's share of members x points, whatever the ranks."""

from math import prod

import pytest
import torch
from thread_group import on_ranks, own
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import Alone, Group, Reduction

MEMBERS, BATCH, POINTS = 12, 3, (5, 7, 8)  # 280 points: not a multiple of 3
FIELD = BATCH * prod(POINTS)


class Sized(Alone):
    """A group that notes how many numbers it takes and gives."""

    def __init__(self, axis: Group) -> None:
        self._axis, self.rank, self.size = axis, axis.rank, axis.size
        self.numbers: dict[str, int] = {}

    def _note(self, name: str, *tensors: Tensor) -> None:
        largest = max(tensor.numel() for tensor in tensors)
        self.numbers[name] = max(largest, self.numbers.get(name, 0))

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        out = self._axis.all_reduce(x, reduction=reduction, name=name)
        self._note(name, x, out)
        return out

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        out = self._axis.all_gather(x, name=name)
        self._note(name, x, out)
        return out

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        out = self._axis.all_to_all(x, name=name)
        self._note(name, x, out)
        return out


def exchanged(layout: str, ranks: int) -> list[tuple[dict[str, int], int]]:
    """Return for each rank the numbers exchanged, and those kept for backward."""
    generator = torch.Generator().manual_seed(1)
    members = torch.randn(MEMBERS, BATCH, *POINTS, generator=generator)
    truth = torch.randn(BATCH, *POINTS, generator=generator)
    weights = torch.rand(POINTS[1], 1, generator=generator)

    def work(axis: Group) -> tuple[dict[str, int], int]:
        sized, mine = Sized(axis), own(members, axis)
        loss = losses.almost_fair_crps(layout=layout, weights=weights)  # type: ignore[arg-type]
        score = loss(mine, truth, sized)
        node = score.grad_fn
        kept = getattr(node, "gradient", None)
        size = sum(t.numel() for t in getattr(node, "saved_tensors", ()))
        size += 0 if kept is None else kept.numel()
        score.sum().backward()
        assert mine.grad is not None
        return sized.numbers, size

    return on_ranks(ranks, work)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_no_rank_holds_more_than_its_share_and_a_field(ranks: int) -> None:
    share = MEMBERS * BATCH * prod(POINTS) // ranks
    for numbers, kept in exchanged("transposed", ranks):
        assert set(numbers) == {"crps.points", "crps.gradients", "crps.score"}
        assert numbers["crps.points"] <= share + FIELD
        assert numbers["crps.gradients"] <= share + FIELD
        assert numbers["crps.score"] == BATCH
        assert 0 < kept <= share + FIELD


def test_gather_holds_all_members() -> None:
    """The comparison above could tell."""
    for numbers, _ in exchanged("gather", 4):
        assert numbers["crps.members"] == MEMBERS * FIELD > MEMBERS * FIELD // 4 + FIELD
