"""Snapshots: which states are kept of many, and where."""

import pytest
import torch
from torch import Tensor

from hpc_bnn.bayes.snapshots import Snapshots


def states(number: int, members: int = 3) -> dict[str, Tensor]:
    """Return rows that say their number and member."""
    row = number + torch.arange(members) / 10
    return {"0/weight": row[:, None, None].expand(members, 2, 4), "scale": row}


def numbers(snapshots: Snapshots) -> list[int]:
    return snapshots.draws()["scale"][0].tolist()


@pytest.mark.parametrize("most", [2, 3, 4, 7])
def test_what_is_kept_lies_evenly_over_all_that_was_offered(most: int) -> None:
    snapshots = Snapshots(states(0), most=most)
    assert snapshots.count == 0
    for number in range(40):
        snapshots.take(states(number))
        stride = next(s for s in (1, 2, 4, 8, 16, 32) if len(range(0, number + 1, s)) <= most)
        assert numbers(snapshots) == [*range(0, number + 1, stride)]
        assert snapshots.count == len(numbers(snapshots)) <= most
        assert not snapshots.kept.get_buffer("scale")[:, snapshots.count :].any()


def test_states_by_member_and_age() -> None:
    snapshots = Snapshots(states(0), most=4)
    for number in range(3):
        snapshots.take(states(number))
    found = snapshots.states([2, 0, 0], [0, 2, 1])
    assert found["scale"].tolist() == pytest.approx([2.2, 0.0, 1.0])
    assert found["0/weight"].shape == (3, 2, 4)
    assert torch.equal(found["0/weight"][:, 1, 3], found["scale"])
    assert [tuple(draws.shape) for draws in snapshots.draws().values()] == [(3, 3, 2, 4), (3, 3)]


def test_places_take_memory_when_they_are_needed() -> None:
    rows = {"w": torch.zeros(()).expand(1_000_000, 1000, 1000)}  # 4 TB of one snapshot
    snapshots = Snapshots(rows, most=8)
    kept = snapshots.kept.get_buffer("w")
    kept.data = kept.data[[3, 4]]
    snapshots.allocate()
    assert snapshots.kept.get_buffer("w").shape == (2, 8, 1000, 1000)
    assert snapshots.kept.get_buffer("w").is_contiguous()


def test_type_follows_the_network_and_the_place_does_not() -> None:
    snapshots = Snapshots(states(0), most=2)
    snapshots.take(states(5))
    assert set(snapshots.state_dict()) == {"offered", "kept.0/weight", "kept.scale"}
    assert list(snapshots.per_sample()) == ["kept.0/weight", "kept.scale"]
    snapshots.double()
    assert snapshots.draws()["scale"].dtype == torch.float64
    assert snapshots.offered.dtype == torch.int64
    assert numbers(snapshots) == [5.0]
    snapshots.to("meta")
    assert snapshots.draws()["scale"].device.type == "cpu"
