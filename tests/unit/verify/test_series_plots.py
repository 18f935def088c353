"""Scores over lead time: the drawn curves are the given ones; what does not fit is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from hpc_bnn.verify.series_plots import MOST_CHANNELS, plot_lead_scores
from hpc_bnn.verify.tally import PointScores


def scores(leads: int, channels: int) -> PointScores:
    ramp = torch.arange(leads * channels, dtype=torch.float64).reshape(leads, channels)
    return PointScores(ramp + 2, ramp + 1, 0.9 + 0 * ramp, ramp)


@pytest.mark.parametrize(("leads", "channels"), [(24, 1), (1, 2), (96, 9)])
def test_curves(tmp_path: Path, drawn: list[Figure], leads: int, channels: int) -> None:
    names = [f"load {c}" for c in range(channels)]
    times = [0.25 * (p + 1) for p in range(leads)]
    path = plot_lead_scores(scores(leads, channels), times, names, tmp_path / "s.png", units="MW")
    assert path.read_bytes().startswith(b"\x89PNG")
    panels = drawn[0].axes
    shown = min(channels, MOST_CHANNELS)
    assert len(panels) == 2 * shown
    assert [panels[2 * c].get_title("left") for c in range(shown)] == names[:shown]
    for c in range(shown):
        curves = {
            str(line.get_label()): np.asarray(line.get_ydata()).tolist()
            for axes in panels[2 * c : 2 * c + 2]
            for line in axes.lines
        }
        given = scores(leads, channels)
        assert curves["RMSE of the mean"] == given.rmse[:, c].tolist()
        assert curves["CRPS"] == given.crps[:, c].tolist()
        assert curves["coverage of 90 %"] == given.coverage_90[:, c].tolist()
        assert panels[2 * c].get_ylabel() == "[MW]"
    assert np.asarray(panels[0].lines[0].get_xdata()).tolist() == times


@pytest.mark.parametrize(
    ("hours", "step"), [(1, 0.25), (24, 3), (36, 6), (96, 12), (192, 24), (720, 168), (8766, 1176)]
)
def test_ticks_are_parts_or_multiples_of_a_day(
    tmp_path: Path, drawn: list[Figure], hours: int, step: float
) -> None:
    times = [hours / 4 * (p + 1) for p in range(4)]
    plot_lead_scores(scores(4, 1), times, ["load"], tmp_path / "s.png")
    ticks = drawn[0].axes[0].get_xticks()
    assert np.diff(ticks).tolist() == pytest.approx([step] * (len(ticks) - 1))
    assert float(ticks[0] % step) == 0


def test_naive_forecasts_beside_it(tmp_path: Path, drawn: list[Figure]) -> None:
    naive = {"last_value": torch.tensor([[5.0], [6.0]]), "day_before": torch.tensor([[7.0], [8.0]])}
    plot_lead_scores(scores(2, 1), [1, 2], ["load"], tmp_path / "s.png", naive=naive)
    curves = {
        str(line.get_label()): np.asarray(line.get_ydata()).tolist()
        for line in drawn[0].axes[0].lines
    }
    assert curves["CRPS, last value"] == [5.0, 6.0]
    assert curves["CRPS, day before"] == [7.0, 8.0]


def test_low_coverage_stays_in_the_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    low = PointScores(*(torch.full((3, 1), v) for v in (1.0, 1.0, 0.2, 1.0)))
    plot_lead_scores(low, [1, 2, 3], ["load"], tmp_path / "s.png")
    assert drawn[0].axes[1].get_ylim()[0] < 0.2


def test_scores_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plot_lead_scores: scores \(4, 2\) of 3 lead times"):
        plot_lead_scores(scores(4, 2), [1, 2, 3], ["a", "b"], tmp_path / "s.png")
