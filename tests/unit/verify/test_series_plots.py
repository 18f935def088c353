"""Scores over lead time: the drawn curves are the given ones; what does not fit is refused."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hpc_bnn.verify.series_plots import MOST_CHANNELS, plot_lead_scores
from hpc_bnn.verify.tally import PointScores
from hpc_bnn.verify.time_axis import tick_times


def scores(leads: int, channels: int) -> PointScores:
    ramp = torch.arange(leads * channels, dtype=torch.float64).reshape(leads, channels)
    return PointScores(ramp + 2, ramp + 1, 0.9 + 0 * ramp, ramp)


@pytest.mark.parametrize(("leads", "channels"), [(24, 1), (1, 2), (30, 13)])
def test_curves(tmp_path: Path, drawn: list[Figure], leads: int, channels: int) -> None:
    names = [f"load {c}" for c in range(channels)]
    times = [0.25 * (p + 1) for p in range(leads)]
    path = plot_lead_scores(scores(leads, channels), times, names, tmp_path / "s.png", units="MW")
    assert path.read_bytes().startswith(b"\x89PNG")
    panels = drawn[0].axes
    shown = min(channels, MOST_CHANNELS)
    assert len(panels) == 3 * shown
    titles = [panels[3 * c].get_title("left") for c in range(shown)]
    assert titles[0] == names[0] + (" (12 of 13 channels)" if channels > shown else "")
    assert titles[1:] == names[1:shown]
    rmse = (scores(leads, channels).rmse[:, 0] ** 2).mean() ** 0.5
    crps = scores(leads, channels).crps[:, 0].mean()
    means = [panels[i].get_title("right") for i in range(3)]
    assert means == [f"all: {rmse:.3g}", f"all: {crps:.3g}", "all: 0.900 (0.9 asked)"]
    for c in range(shown):
        curves = {
            str(line.get_label()): np.asarray(line.get_ydata()).tolist()
            for axes in panels[3 * c : 3 * c + 3]
            for line in axes.lines
        }
        given = scores(leads, channels)
        assert curves["RMSE of the mean"] == given.rmse[:, c].tolist()
        assert curves["CRPS"] == given.crps[:, c].tolist()
        assert curves["coverage of 90 %"] == given.coverage_90[:, c].tolist()
        assert [panels[3 * c + i].get_ylabel() for i in (0, 1)] == ["RMSE [MW]", "CRPS [MW]"]
    assert np.asarray(panels[0].lines[0].get_xdata()).tolist() == times


def test_ticks_are_parts_or_multiples_of_a_day() -> None:
    spans = {1: 0.25, 24: 3, 36: 6, 96: 12, 192: 24, 720: 168, 8766: 1176}
    for hours, step in spans.items():
        axes = Figure().subplots()
        axes.plot([hours / 4, hours], [0, 1])
        tick_times(axes, "lead time [h]", hours)
        ticks = axes.get_xticks()
        assert np.diff(ticks).tolist() == pytest.approx([step] * (len(ticks) - 1))
        assert float(ticks[0] % step) == 0


def test_naive_forecasts_beside_it(tmp_path: Path, drawn: list[Figure]) -> None:
    """Each score beside the same score of the others."""
    last, day = (
        PointScores(*(torch.full((2, 1), v) for v in values))
        for values in ((5.0, 6.0, math.nan, math.nan), (7.0, 8.0, math.nan, math.nan))
    )
    naive = {"last_value": last, "day_before": day}
    plot_lead_scores(scores(2, 1), [1, 2], ["load"], tmp_path / "s.png", naive=naive)
    panels = [
        {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.lines}
        for axes in drawn[0].axes[:2]
    ]
    assert panels == [
        {"RMSE of the mean": [2.0, 3.0], "last value": [5.0, 5.0], "day before": [7.0, 7.0]},
        {"CRPS": [1.0, 2.0], "last value": [6.0, 6.0], "day before": [8.0, 8.0]},
    ]


def test_one_member_has_no_panel_of_coverage(tmp_path: Path, drawn: list[Figure]) -> None:
    one = PointScores(*(torch.full((3, 1), v) for v in (2.0, 1.0, math.nan, 1.0)))
    plot_lead_scores(one, [1, 2, 3], ["load"], tmp_path / "s.png")
    assert [axes.get_ylabel() for axes in drawn[0].axes] == ["RMSE", "CRPS"]


def test_low_coverage_stays_in_the_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    low = PointScores(*(torch.full((3, 1), v) for v in (1.0, 1.0, 0.2, 1.0)))
    plot_lead_scores(low, [1, 2, 3], ["load"], tmp_path / "s.png")
    assert drawn[0].axes[2].get_ylim()[0] < 0.2


def test_scores_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plot_lead_scores: scores \(4, 2\) of 3 lead times"):
        plot_lead_scores(scores(4, 2), [1, 2, 3], ["a", "b"], tmp_path / "s.png")
