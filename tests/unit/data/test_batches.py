"""The batches of each rank: disjoint parts of one keyed order, the same after any resume."""

from dataclasses import dataclass
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hpc_bnn.data import Batches, InMemory
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import Grid


@dataclass(frozen=True)
class Place:
    """What ``Batches`` asks of a world."""

    grid: Grid
    all_ranks: Group = ALONE


def examples(count: int) -> InMemory:
    index = torch.arange(count)
    return InMemory(index.float().unsqueeze(1) * 10, index)


def loader(
    num_examples: int,
    batch_size: int,
    *,
    sample_ranks: int = 1,
    data_ranks: int = 1,
    world_rank: int = 0,
    seed: int = 3,
) -> Batches:
    place = Place(Grid(sample_ranks, data_ranks, world_rank))
    return Batches(examples(num_examples), batch_size=batch_size, world=place, seed=seed)


SIZES = [
    (n, b, d) for n in range(1, 14) for b in range(1, n + 1) for d in (1, 2, 3, 4) if b % d == 0
]


@pytest.mark.parametrize("data_ranks", [1, 2, 3, 4])
def test_every_small_size(data_ranks: int) -> None:
    """An epoch covers no example twice, ranks partition a batch, and S does not matter."""
    for num_examples, batch_size, d in SIZES:
        if d != data_ranks:
            continue
        alone = loader(num_examples, batch_size)
        steps = alone.steps_per_epoch
        assert steps == len(alone) == num_examples // batch_size
        for epoch in range(2):
            seen: list[int] = []
            for step in range(epoch * steps, (epoch + 1) * steps):
                whole = alone.indices(step)
                for s in (1, 2, 3):
                    ranks = [
                        loader(num_examples, batch_size, sample_ranks=s, data_ranks=d, world_rank=r)
                        for r in range(s * d)
                    ]
                    parts = [rank.indices(step) for rank in ranks]
                    assert {len(part) for part in parts} == {batch_size // d}
                    for sample_rank in range(s):
                        assert torch.equal(torch.cat(parts[sample_rank::s]), whole)
                seen += whole.tolist()
            assert len(set(seen)) == len(seen) == steps * batch_size
            assert set(seen) <= set(range(num_examples))


def test_what_is_left_over_is_seen_in_other_epochs() -> None:
    batches = loader(10, 4)
    seen = [int(i) for _ in range(12) for _, y in batches for i in y]
    assert set(seen) == set(range(10))


@pytest.mark.parametrize("resume_at", [0, 1, 4, 5, 6, 9, 14])
def test_at_any_step_equals_the_uninterrupted_order(resume_at: int) -> None:
    straight = loader(22, 4, data_ranks=2, world_rank=1)
    order = [batch for _ in range(4) for batch in straight]
    assert len(order) == 20
    resumed = loader(22, 4, data_ranks=2, world_rank=1)
    for step in range(resume_at, 20):
        x, y = resumed.at(step)
        assert torch.equal(x, order[step][0])
        assert torch.equal(y, order[step][1])


def test_an_epoch_left_early_is_followed_by_the_next() -> None:
    batches, straight = loader(12, 4), loader(12, 4)
    list(islice(batches, 1))
    second = [batch for _ in range(2) for batch in straight][3:]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, second, strict=True))


def test_inputs_and_targets_belong_together() -> None:
    for x, y in loader(9, 3):
        assert x.shape == (3, 1)
        assert torch.equal(x.squeeze(1), y.float() * 10)


class Squares(Dataset[tuple[Tensor, int]]):
    """A user's own map-style data set of tensors and plain numbers."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((2, 2), float(index)), index**2


def test_a_torch_dataset_is_read_like_examples() -> None:
    place = Place(Grid(1, 1, 0))
    own = Batches(Squares(), batch_size=3, world=place, seed=3)
    x, y = own.at(0)
    picked = loader(7, 3).indices(0)
    assert torch.equal(own.indices(0), picked)
    assert torch.equal(x, picked.float().reshape(3, 1, 1).expand(3, 2, 2))
    assert torch.equal(y, picked**2)
    assert y.dtype == torch.int64


def test_errors_name_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size = 4: the training set has only 3"):
        loader(3, 4)
    with pytest.raises(ValueError, match=r"train\.batch_size = 5: .* 2 data ranks"):
        loader(10, 5, data_ranks=2)


def test_rollouts_change_with_the_epoch_and_nothing_else() -> None:
    class Windows(InMemory):
        def batch(self, indices: Tensor, rollout: int = 1) -> tuple[Tensor, Tensor]:
            return self.x[indices], torch.full((len(indices),), rollout)

    plain = examples(11)
    windows = Windows(plain.x, plain.y)
    place = Place(Grid(1, 2, 1))
    one = Batches(plain, batch_size=4, world=place, seed=3)
    rolled = Batches(windows, batch_size=4, world=place, seed=3, rollout=lambda epoch: 1 + epoch)
    assert rolled.steps_per_epoch == 2
    for step in (5, 0, 1, 2, 4, 3):  # in any order, as after a resume
        x, y = rolled.at(step)
        assert torch.equal(x, one.at(step)[0])
        assert y.tolist() == [1 + step // 2] * 2
