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
        members,
        truth,
        latitude,
        longitude,
        path,
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
    assert [axes.get_title() for axes in panels] == [
        "truth",
        "mean of 5 members",
        "spread",
        "mean - truth",
    ]
    mean = members.double().mean(0)
    fields = [truth.double(), mean, members.double().std(0), mean - truth.double()]
    for axes, field in zip(panels, fields, strict=True):
        np.testing.assert_allclose(np.asarray(mesh(axes).get_array()), field.numpy(), rtol=1e-12)
    one, other, spread, error = (mesh(axes).get_clim() for axes in panels)
    assert (
        one == other == (float(min(truth.min(), mean.min())), float(max(truth.max(), mean.max())))
    )
    assert spread[0] == 0
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
    assert [axes.get_title() for axes in panels] == ["truth", "member", "", "member - truth"]
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
    with pytest.raises(ValueError, match=r"truth \(2, 3\), latitude \(3,\)"):
        draw(torch.zeros(2, 2, 3), torch.zeros(2, 3), torch.zeros(3), torch.zeros(3), tmp_path)
