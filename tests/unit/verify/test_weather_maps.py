"""Maps: the four fields with their colours and ranges are read back from the figure."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from torch import Tensor

from hpc_bnn.verify.weather_maps import plot_maps

START_S = 1_500_000_000 // 86400 * 86400


def draw(members: Tensor, truth: Tensor, latitude: Tensor, longitude: Tensor, path: Path) -> Path:
    return plot_maps(
        members.double().mean(0),
        members.double().std(0) if len(members) > 1 else None,
        truth,
        latitude,
        longitude,
        path,
        members=len(members),
        name="t2m",
        units="K",
        start_s=START_S,
        lead_hours=30,
    )


def mesh(axes: Axes) -> QuadMesh:
    (found,) = (part for part in axes.collections if isinstance(part, QuadMesh))
    return found


def test_maps(tmp_path: Path, drawn: list[Figure]) -> None:
    g = torch.Generator().manual_seed(0)
    members, truth = torch.randn(5, 5, 8, generator=g), torch.randn(5, 8, generator=g)
    latitude, longitude = torch.linspace(90, -90, 5), torch.arange(8) * 45.0
    path = draw(members, truth, latitude, longitude, tmp_path / "maps.png")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    panels = drawn[0].axes[:4]
    mean = members.double().mean(0)
    fields = [truth.double(), mean, members.double().std(0), mean - truth.double()]
    edges = torch.tensor([90, 67.5, 22.5, -22.5, -67.5, -90], dtype=torch.float64).deg2rad().sin()
    area = (edges[:-1] - edges[1:])[:, None] / 16

    def over_area(field: Tensor) -> float:
        return float((area * field).sum())

    spread, rmse = (over_area(fields[i] ** 2) ** 0.5 for i in (2, 3))
    assert [axes.get_title() for axes in panels] == [
        "truth",
        "mean of 5 members",
        f"spread, root mean square {spread:.3g}",
        f"mean - truth, RMSE {rmse:.3g}, bias {over_area(fields[3]):.2g}",
    ]
    for axes, field in zip(panels, fields, strict=True):
        np.testing.assert_allclose(np.asarray(mesh(axes).get_array()), field.numpy(), rtol=1e-12)
    one, other, spread_clim, error = (mesh(axes).get_clim() for axes in panels)
    most = max(float(truth.abs().max()), float(mean.abs().max()))
    assert one == other == (-most, most)  # values of both signs: 0 is white
    assert spread_clim[0] == 0
    assert error == (-float(fields[3].abs().max()), float(fields[3].abs().max()))
    # Rows on the poles end there; longitudes reach half a step to both sides.
    corners = np.asarray(mesh(panels[0]).get_coordinates())
    assert corners[0, 0].tolist() == [-22.5, 90]
    assert corners[-1, -1].tolist() == [337.5, -90]
    assert corners[1, 0, 1] == 67.5
    assert drawn[0].get_suptitle() == (
        "t2m: start 2017-07-14 00:00 UTC, lead time 30 h, valid 2017-07-15 06:00 UTC"
    )
    bars = [child for axes in panels for child in axes.child_axes]
    assert [bar.get_ylabel() for bar in bars] == ["t2m [K]"] * 4


def test_one_member_of_a_region_across_the_meridian(tmp_path: Path, drawn: list[Figure]) -> None:
    field = torch.arange(6.0).reshape(2, 3)
    longitude = torch.tensor([355.0, 0.0, 5.0])
    draw(field[None], field, torch.tensor([50.0, 45.0]), longitude, tmp_path / "maps.png")
    panels = drawn[0].axes[:4]
    assert [axes.get_title() for axes in panels] == [
        "truth",
        "member",
        "",
        "member - truth, RMSE 0, bias 0",
    ]
    assert not panels[2].collections
    corners = np.asarray(mesh(panels[0]).get_coordinates())
    assert corners[0, :, 0].tolist() == [352.5, 357.5, 362.5, 367.5]
    assert corners[:, 0, 1].tolist() == [52.5, 47.5, 42.5]
    labels = [label.get_text() for label in panels[0].get_xticklabels()]
    assert "0" in labels and "360" not in labels


@pytest.mark.parametrize("value", [math.nan, 3.0])
def test_strange_fields_are_drawn(tmp_path: Path, drawn: list[Figure], value: float) -> None:
    field = torch.full((2, 3), value)
    axes = torch.tensor([10.0, 0.0]), torch.tensor([0.0, 10.0, 20.0])
    draw(field.expand(2, 2, 3), field, *axes, tmp_path / "maps.png")
    assert len(drawn) == 1


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"truth \(2, 3\), spread \(2, 3\), latitude \(3,\)"):
        draw(torch.zeros(2, 2, 3), torch.zeros(2, 3), torch.zeros(3), torch.zeros(3), tmp_path)


@pytest.mark.parametrize(
    ("low", "signed", "clim"),
    [
        (-1.0, None, (-5, 5)),
        (-0.1, None, (-0.1, 5)),
        (2.0, None, (2, 5)),
        (-0.1, True, (-5, 5)),
        (-1.0, False, (-1, 5)),
    ],
)
def test_colours_of_signed_fields_diverge_from_zero(
    tmp_path: Path, drawn: list[Figure], low: float, signed: bool | None, clim: tuple[float, float]
) -> None:
    field = torch.linspace(low, 5, 6, dtype=torch.float64).reshape(2, 3)
    latitude, longitude = torch.tensor([50.0, 45.0]), torch.tensor([5.0, 10.0, 15.0])
    plot_maps(
        field, torch.zeros(2, 3), field, latitude, longitude, tmp_path / "m.png",
        members=2, name="x", units="1", start_s=0, lead_hours=24, signed=signed,
    )  # fmt: skip
    drawn_mesh = mesh(drawn[0].axes[0])
    assert drawn_mesh.get_clim() == pytest.approx(clim)
    assert (drawn_mesh.get_cmap().name == "RdBu_r") == (clim[0] == -clim[1])
    # An error has both signs always.
    assert mesh(drawn[0].axes[3]).get_cmap().name == "RdBu_r"


def test_maps_have_the_coastlines_of_their_region(tmp_path: Path, drawn: list[Figure]) -> None:
    """Limits stay those of the data; the coast of Ireland lies where it is on either side of 0."""
    field = torch.zeros(1, 3, 4)
    for west in (-12.0, 348.0):
        longitude = west + 2 * torch.arange(4)
        draw(field, field[0], torch.tensor([55.0, 53.0, 51.0]), longitude, tmp_path / "m.png")
        panel = drawn[-1].axes[0]
        assert panel.get_xlim() == (west - 1, west + 7)
        assert panel.get_ylim() == (50, 56)
        coast = [line for line in panel.lines if line.get_gid() == "coastlines"]
        assert coast
        points = np.concatenate([np.asarray(line.get_xydata()) for line in coast])
        # Mizen Head, the south-western corner of Ireland, is at 51.5 N, 9.8 W.
        distance = np.hypot(*(points - [west + 2.2, 51.5]).T)
        assert np.nanmin(distance) < 0.4
