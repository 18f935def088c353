"""The coastlines: known places lie on the right side, and the share of land is the Earth's."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from hpc_bnn.verify.coastlines import FILE, draw_coastlines, land_share, rings

PLACES = {
    "Karlsruhe": (49.0, 8.4, 1),
    "Caspian Sea": (42.0, 51.0, 0),
    "Pacific": (0.0, -150.0, 0),
    "the Antarctic": (-85.0, 30.0, 1),
    "Chukotka, beyond the antimeridian": (66.0, -175.0, 1),
    "Amazonia": (-5.0, 297.0, 1),
    "North Pole": (89.0, 0.0, 0),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_known_places(place: str, turn: int) -> None:
    latitude, longitude, land = PLACES[place]
    cells = land_share(latitude + np.array([0.05, -0.05]), longitude + turn + np.array([0, 0.1]))
    np.testing.assert_allclose(cells, land, atol=1e-9)


def test_share_of_the_earth_that_is_land() -> None:
    """29.2 % (CIA World Factbook), without the small islands that the scale leaves out."""
    for rows in (32, 33):
        edge = 90.0 if rows % 2 else 90 - 90 / rows
        latitude = np.linspace(edge, -edge, rows)
        share = land_share(latitude, np.arange(64) * 5.625)
        assert share.min() >= 0
        assert share.max() <= 1
        area = np.cos(np.radians(latitude))
        assert float(area @ share.mean(1) / area.sum()) == pytest.approx(0.29, abs=0.006)


def test_a_cell_on_a_coast_is_as_much_land_as_its_parts() -> None:
    latitude = 51 - 0.5 * np.arange(8)  # the north of France and the Channel
    fine = land_share(latitude, -6 + 0.5 * np.arange(16))
    coarse = land_share(latitude, -5.75 + np.arange(8))
    np.testing.assert_allclose(coarse, fine.reshape(8, 8, 2).mean(2), atol=1e-12)
    assert 0.2 < coarse.mean() < 0.8


def test_rings_are_closed_and_small_to_ship() -> None:
    assert FILE.stat().st_size < 60_000
    for ring in rings():
        assert ring[0].tolist() == ring[-1].tolist()
        assert len(ring) > 3


def test_the_pole_is_not_drawn() -> None:
    axes = Figure().subplots()
    axes.set_xlim(0, 360)
    axes.set_ylim(-90, 90)
    draw_coastlines(axes)
    assert axes.get_xlim() == (0, 360)
    lowest = min(np.nanmin(np.asarray(line.get_ydata())) for line in axes.lines)
    assert -86 < lowest < -85
