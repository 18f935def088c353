"""The seasonal naive forecast: exact on what repeats, and what it repeats of anything else."""

import pytest
import torch

from hpc_bnn.verify.naive import seasonal_naive


def test_a_season_is_repeated() -> None:
    series = torch.tensor([3.0, 1.0, 4.0]).repeat(5)[None, :, None]
    history, truth = series[:, :7], series[:, 7:15]
    assert torch.equal(seasonal_naive(history, horizon=8, season=3), truth)
    assert torch.equal(seasonal_naive(history, horizon=8, season=6), truth)
    assert not torch.equal(seasonal_naive(history, horizon=8, season=2), truth)


def test_a_season_of_one_row_is_persistence() -> None:
    history = torch.randn(2, 5, 3)
    expected = history[:, -1:].expand(2, 4, 3)
    assert torch.equal(seasonal_naive(history, horizon=4, season=1), expected)


def test_a_horizon_within_the_season_takes_its_beginning() -> None:
    history = torch.arange(10.0)[None, :, None]
    assert seasonal_naive(history, horizon=2, season=7).flatten().tolist() == [3.0, 4.0]


@pytest.mark.parametrize("season", [0, 6])
def test_a_season_the_history_does_not_hold(season: int) -> None:
    with pytest.raises(ValueError, match=rf"season = {season} rows: .*1 to the 5 rows"):
        seasonal_naive(torch.zeros(1, 5, 1), horizon=2, season=season)
