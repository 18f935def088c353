"""Cell areas: they cover the sphere, know the poles, and mirror; against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_bnn.losses.cell_area import cell_area


def poles(rows: int) -> Tensor:
    return torch.linspace(90, -90, rows, dtype=torch.float64)


def centres(rows: int) -> Tensor:
    step = 180 / rows
    return 90 - step * (torch.arange(rows, dtype=torch.float64) + 0.5)


@pytest.mark.parametrize("rows", [32, 33, 121])
def test_against_numpy_with_bounds_at_the_poles(rows: int) -> None:
    latitude = (poles if rows % 2 else centres)(rows)
    rising = latitude.numpy()[::-1]
    bounds = np.concatenate([[-90], (rising[1:] + rising[:-1]) / 2, [90]])
    expected = np.diff(np.sin(np.deg2rad(bounds)))[::-1]
    area = cell_area(latitude)
    assert area.dtype == torch.float64
    # The raw differences cover sin(90) - sin(-90) = 2.
    np.testing.assert_allclose((area * 2 / rows).numpy(), expected, rtol=0, atol=1e-14)
    assert float(area.mean()) == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(area, area.flip(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("rows", "pole"), [(33, 2.0e-2), (121, 5.2e-3), (721, 8.6e-4)])
def test_a_row_on_the_pole_has_its_cap(rows: int, pole: float) -> None:
    """Known numbers: relative to the mean, as in WeatherBench 2."""
    assert float(cell_area(poles(rows))[0]) == pytest.approx(pole, rel=0.05)


def test_cell_centres_weigh_as_their_cosine() -> None:
    cosine = torch.cos(centres(32).deg2rad())
    torch.testing.assert_close(cell_area(centres(32)), cosine / cosine.mean(), rtol=1e-13, atol=0)


def test_region_ends_half_a_step_beyond_its_rows() -> None:
    area = cell_area(torch.tensor([60.0, 50.0, 40.0]))
    edges = np.sin(np.deg2rad([65.0, 55.0, 45.0, 35.0]))
    expected = edges[:-1] - edges[1:]
    np.testing.assert_allclose(area.numpy(), expected / expected.mean(), rtol=1e-14)


def test_one_row() -> None:
    assert cell_area(torch.tensor([48.0])).tolist() == [1.0]


@pytest.mark.parametrize(
    "latitude",
    [[0.0, 10.0], [10.0, 10.0], [91.0, 0.0], [1.0, float("nan")], [], [[1.0, 0.0]]],
)
def test_what_is_no_latitude_is_refused(latitude: list[float]) -> None:
    with pytest.raises(ValueError, match=r"cell_area: .*expected"):
        cell_area(torch.tensor(latitude))
