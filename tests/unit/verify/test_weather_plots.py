"""Plots of weather scores: the drawn curves are read back from the figure; looks need an eye."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.verify import weather_plots
from hpc_bnn.verify.channel_scores import ChannelScores
from hpc_bnn.verify.event_plots import plot_events
from hpc_bnn.verify.field_sums import FieldForecasts
from hpc_bnn.verify.weather import WeatherTally

UNITS = {"z500": "m2 s-2", "t2m": "K"}


def scores(
    leads: int, members: int = 3, *, starts: int = 2, times: float = 1.0
) -> dict[str, ChannelScores]:
    g = torch.Generator().manual_seed(0)
    tally = WeatherTally(
        starts=starts,
        leads=leads,
        channels=2,
        members=members,
        area=cell_area(torch.tensor([60.0, 0.0, -60.0])),
    )
    for lead in range(leads):
        x = times * torch.randn(members + 3, starts, 2, 3, 4, generator=g)
        uniforms = torch.rand(starts, 2, 3, 4, generator=g)
        for c in range(2):
            fields = (x[3:, :, c], *x[:3, :, c], torch.ones(3, 4), uniforms[:, c])
            tally.add(lead, c, list(range(starts)), [(slice(0, 3), FieldForecasts(*fields))])
    of_starts = tally.of_starts(
        torch.arange(starts), range(leads), list(UNITS), list(UNITS.values())
    )
    return tally.result(of_starts)


def curves(axes: Axes) -> dict[str, list[list[float]]]:
    return {str(line.get_label()): np.asarray(line.get_xydata()).T.tolist() for line in axes.lines}


def test_scores(tmp_path: Path, drawn: list[Figure]) -> None:
    held = scores(3)
    path = weather_plots.plot_scores(
        held, [6, 12, 18], UNITS, tmp_path / "scores.png", note="2 starts of January, UTC"
    )
    assert drawn[0].get_supxlabel() == "2 starts of January, UTC"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    panels = drawn[0].axes
    labels = ["RMSE [m$^{2}$ s$^{-2}$]", "CRPS [m$^{2}$ s$^{-2}$]", "ACC", "RMSE [K]", "CRPS [K]"]
    assert [axes.get_ylabel() for axes in panels] == [*labels, "ACC"]
    assert [axes.get_title("left") for axes in panels] == ["z500", "", "", "t2m", "", ""]
    assert [axes.get_xlabel() for axes in panels] == [""] * 3 + ["lead time [h]"] * 3
    values = held["z500"]["rmse"]
    assert panels[0].get_title("right") == f"6 h: {values[0]:.3g}, 18 h: {values[2]:.3g}"
    rmse, acc = curves(panels[3]), curves(panels[5])
    assert rmse["ensemble"] == [[6, 12, 18], held["t2m"]["rmse"]]
    assert rmse["persistence"] == [[6, 12, 18], held["t2m"]["persistence"]["rmse"]]
    assert rmse["climatology"] == [[6, 12, 18], held["t2m"]["climatology"]["rmse"]]
    assert acc.keys() == {"ensemble", "persistence"}
    assert acc["ensemble"][1] == held["t2m"]["acc"]


def test_spread_skill(tmp_path: Path, drawn: list[Figure]) -> None:
    held = scores(2)
    weather_plots.plot_spread_skill(held, [24, 240], UNITS, tmp_path / "spread.png")
    left, right = drawn[0].axes[:2]
    skill, spread = (curve[1] for curve in curves(left).values())
    assert skill == held["z500"]["rmse"]
    assert spread == pytest.approx([math.sqrt(4 / 3) * s for s in held["z500"]["spread"]])
    ratio = right.lines[0]
    assert np.asarray(ratio.get_xdata()).tolist() == [1, 10]
    # The right panel is the left one's curves divided.
    assert np.asarray(ratio.get_ydata()).tolist() == pytest.approx(
        [s / e for s, e in zip(spread, skill, strict=True)]
    )
    assert drawn[0].axes[2].get_xlabel() == "lead time [d]"
    first, last = held["z500"]["spread_skill_ratio"]
    assert right.get_title("right") == f"24 h: {first:.3g}, 10 d: {last:.3g} (1 asked)"


def test_ranks(tmp_path: Path, drawn: list[Figure]) -> None:
    held = scores(5)
    leads = [24.0 * day for day in range(1, 6)]
    weather_plots.plot_ranks({"t2m": held["t2m"]}, leads, tmp_path / "ranks.png")
    panels = drawn[0].axes
    assert [axes.get_title("left") for axes in panels] == ["t2m, 24 h", "t2m, 72 h", "t2m, 5 d"]
    inside = 100 * held["t2m"]["coverage_90"][2]
    assert panels[1].get_title("right") == f"in 90 %: {inside:.0f} %"
    counts = held["t2m"]["rank_histogram"][2]
    bars = [bar.get_height() for bar in panels[1].patches if isinstance(bar, Rectangle)]
    assert bars == pytest.approx([count * 4 / sum(counts) for count in counts])


@pytest.mark.parametrize("times", [math.nan, 1.0])
def test_scores_from_json_without_values(tmp_path: Path, drawn: list[Figure], times: float) -> None:
    """A summary file has null for NaN: one member, or a forecast that blew up."""
    text = json.dumps(scores(2, members=1, times=times)).replace("NaN", "null")
    held = json.loads(text)
    weather_plots.plot_scores(held, [6, 12], UNITS, tmp_path / "scores.png")
    weather_plots.plot_ranks(held, [6, 12], tmp_path / "ranks.png")
    assert len(drawn) == 2
    with pytest.raises(ValueError, match="1 member has no spread; expected at least 2"):
        weather_plots.plot_spread_skill(held, [6, 12], UNITS, tmp_path / "spread.png")


def test_well_known_channels_are_chosen() -> None:
    names = ["t2m", "sst", "z50", "z500", "t850", "u10", "v10", "msl"]
    assert weather_plots.channels_to_draw(names, 3) == ["t2m", "z500", "t850"]
    assert weather_plots.channels_to_draw(names) == ["t2m", "z500", "t850", "u10", "v10", "msl"]
    assert weather_plots.channels_to_draw(["b", "a"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ("K", "K"),
        ("m2 s-2", "m$^{2}$ s$^{-2}$"),
        ("m**2 s**-2", "m$^{2}$ s$^{-2}$"),
        ("kg kg**-1", "kg kg$^{-1}$"),
        ("(0 - 1)", "(0 - 1)"),
        ("", "1"),
    ],
)
def test_units(units: str, text: str) -> None:
    assert weather_plots.pretty(units) == text


def test_bad_input(tmp_path: Path) -> None:
    held = scores(2)
    with pytest.raises(ValueError, match=r"plot_scores: 3 lead times, scores at \{'z500': 2"):
        weather_plots.plot_scores(held, [6, 12, 18], UNITS, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"no units of \['t2m'\]; got those of \['z500'\]"):
        weather_plots.plot_scores(held, [6, 12], {"z500": "m2 s-2"}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one channel"):
        weather_plots.plot_ranks({}, [6], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_events(tmp_path: Path, drawn: list[Figure]) -> None:
    """The shares of truths above each quantile over the probabilities that were forecast."""
    held = scores(3)
    path = plot_events(held, [6, 24, 48], tmp_path / "events.png", note="2 starts")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    panels = drawn[0].axes
    assert [axes.get_title("left") for axes in panels] == [
        "z500, 24 h", "z500, 48 h", "t2m, 24 h", "t2m, 48 h",
    ]  # fmt: skip
    lines = curves(panels[3])
    counts = np.array(held["t2m"]["events"]["0.9"]["counts"][2])
    some = counts[:, 0] > 0
    x, y = lines["above the 0.9 quantile"]
    assert x == pytest.approx((np.arange(4) / 3)[some])
    assert y == pytest.approx(counts[some, 1] / counts[some, 0])
    assert lines["reliable"] == [[0, 1], [0, 1]]
    skill = held["t2m"]["events"]["0.9"]["skill"][2]
    assert f"{skill:.2f}" in panels[3].get_title("right")


def test_events_of_nothing_are_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    held = json.loads(json.dumps(scores(1, members=1)))
    for events in held["z500"]["events"].values():
        events["counts"] = [[[None, None]] * 2]
        events["skill"] = [None]
    plot_events(held, [24], tmp_path / "events.png")
    assert len(drawn) == 1
