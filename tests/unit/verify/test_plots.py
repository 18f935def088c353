"""Plots: a whole PNG appears, its data are the given ones, and bad data are refused by name.

How they look is judged by eye; here the drawn curves are read back from the figure.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from hpc_bnn.train.score.curves import loss_in_words
from hpc_bnn.verify import plots
from hpc_bnn.verify.calibration import reliability_bins

PNG = b"\x89PNG\r\n\x1a\n"


def records(count: int = 300) -> list[dict[str, float]]:
    found: list[dict[str, float]] = []
    for step in range(1, count + 1):
        found.append({"step": step, "loss": 1 + 1 / step, "nll": 1 / step, "kl": 5.0 + step})
        if step % 100 == 0:
            found.append({"step": step, "validation_nll": 0.5})
    return found


def forecast(num_examples: int = 2) -> dict[str, object]:
    quantiles = {p: torch.full((num_examples, 3), p) for p in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return {
        "time": torch.arange(-4, 4),
        "history": torch.zeros(num_examples, 5),
        "truth": torch.ones(num_examples, 3),
        "quantiles": quantiles,
    }


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata())]


def heights(axes: Axes) -> list[float]:
    return [patch.get_height() for patch in axes.patches if isinstance(patch, Rectangle)]


def is_whole_png(path: Path) -> bool:
    content = path.read_bytes()
    return content.startswith(PNG) and content.rstrip().endswith(b"IEND\xaeB`\x82")


def test_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    path = plots.plot_loss(records(), tmp_path / "new" / "loss.png")
    assert path == tmp_path / "new" / "loss.png"
    assert is_whole_png(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["loss.png"]
    labels = [axes.get_ylabel() for axes in drawn[0].axes]
    assert labels == ["loss / example", "NLL\n/ example", "KL or -log prior\n[nats]"]
    nll = {line.get_label(): line for line in drawn[0].axes[1].lines}
    assert ys(nll["each step"]) == [1 / step for step in range(1, 301)]
    assert xs(nll["validation"]) == [100, 200, 300]
    end = drawn[0].axes[1].get_title("right")
    assert end == f"at the end: training {1 / 300:.4g}, validation 0.5"
    # The mean of a straight line over a symmetric neighbourhood is the line itself, ends included.
    kl = {line.get_label(): line for line in drawn[0].axes[2].lines}
    assert ys(kl["running mean"]) == pytest.approx([5.0 + s for s in range(1, 301)])


def test_loss_of_a_short_run_without_kl_skips_what_is_not_finite(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    losses = (2.0, float("nan"), 1.0)
    metrics = [{"step": i, "loss": loss} for i, loss in enumerate(losses, start=1)]
    plots.plot_loss(metrics, tmp_path / "loss.png")
    (axes,) = drawn[0].axes
    assert xs(axes.lines[0]) == [1, 3]


def test_a_loss_is_called_by_its_name(tmp_path: Path, drawn: list[Figure]) -> None:
    """A CRPS is no NLL; its validation has a panel, a complexity that is 0 has none."""
    metrics: list[dict[str, float]] = [
        {"step": step, "loss": 1.0, "nll": 2.0, "kl": 0.0} for step in range(4)
    ]
    metrics.append({"step": 3, "validation_crps": 0.25})
    plots.plot_loss(metrics, tmp_path / "loss.png", loss_name="almost fair CRPS")
    labels = [axes.get_ylabel() for axes in drawn[0].axes]
    assert labels == ["loss / example", "almost fair CRPS\n/ example", "CRPS / point"]
    assert ys(drawn[0].axes[2].lines[0]) == [0.25]
    assert [loss_in_words(name) for name in ("categorical_nll", "own.losses:pinball_loss")] == [
        "categorical NLL",
        "pinball loss",
    ]


def test_loss_without_records(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plot_loss: 1 records without loss"):
        plots.plot_loss([{"step": 1}], tmp_path / "loss.png")


@pytest.mark.parametrize("num_examples", [1, 5])
def test_forecast(tmp_path: Path, drawn: list[Figure], num_examples: int) -> None:
    path = plots.plot_forecast(
        **forecast(num_examples),  # type: ignore[arg-type]
        path=tmp_path / "forecast.png",
        value_label="load [MW]",
        titles=[f"case {e}" for e in range(num_examples)],
    )
    assert is_whole_png(path)
    panels = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in panels] == [f"case {e}" for e in range(num_examples)]
    lines = {line.get_label(): line for line in panels[0].lines}
    assert xs(lines["median"]) == [1, 2, 3]
    assert ys(lines["median"]) == [0.5, 0.5, 0.5]
    # The truth starts at the last value of the history.
    assert ys(lines["truth"]) == [0, 1, 1, 1]
    assert xs(lines["history"]) == [-4, -3, -2, -1, 0]
    wide = panels[0].collections[0].get_paths()[0].get_extents()
    assert (wide.ymin, wide.ymax) == pytest.approx((0.05, 0.95))


def test_forecast_over_dates(tmp_path: Path, drawn: list[Figure]) -> None:
    """Panels have dates of their own, in the zone of the clock, and units of their own."""
    zone = timezone(timedelta(hours=2))
    starts = [datetime(2020, 3, 1 + e, 22, tzinfo=UTC).astimezone(zone) for e in range(2)]
    clocks = [[start + timedelta(hours=k) for k in range(8)] for start in starts]
    data: dict[str, Any] = forecast(2)
    plots.plot_forecast(
        **data, path=tmp_path / "f.png", clocks=clocks, value_label=["a [MW]", "b [K]"], columns=2
    )
    left, right = drawn[0].axes
    assert [axes.get_ylabel() for axes in (left, right)] == ["a [MW]", "b [K]"]
    lines = {line.get_label(): line for line in right.lines}
    drawn_times = list(np.asarray(lines["median"].get_xdata(orig=True)))
    assert drawn_times == clocks[1][5:]
    ticks = [label.get_text() for label in left.get_xticklabels()]
    assert ticks[0] == "02 Mar"  # 22 UTC is midnight there


def test_forecast_bad_input(tmp_path: Path) -> None:
    data = forecast()
    quantiles = data["quantiles"]
    assert isinstance(quantiles, dict)
    wrong: dict[float, Tensor] = {**quantiles, 0.25: torch.zeros(2, 4)}
    with pytest.raises(ValueError, match=r"quantiles \{0.25: \(2, 4\)\}.*expected"):
        plots.plot_forecast(**{**data, "quantiles": wrong}, path=tmp_path / "x.png")  # type: ignore[arg-type]
    del quantiles[0.05]
    with pytest.raises(ValueError, match=r"no quantiles at \[0.05\]; expected \[0.05, 0.25"):
        plots.plot_forecast(**data, path=tmp_path / "x.png")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_reliability(tmp_path: Path, drawn: list[Figure]) -> None:
    record = reliability_bins(torch.tensor([0.15, 0.85, 0.95]), torch.tensor([0, 1, 0]), bins=5)
    assert is_whole_png(plots.plot_reliability(record, tmp_path / "reliability.png"))
    top, bottom = drawn[0].axes
    observed = {line.get_label(): line for line in top.lines}["observed"]
    assert xs(observed) == pytest.approx([0.15, 0.9])
    assert ys(observed) == [0, 0.5]
    assert heights(bottom) == [1, 0, 0, 0, 2]
    # |0 - 0.15| / 3 + |1 - 1.8| / 3
    assert top.get_title("left") == "3 examples, ECE = 0.3167"


def test_pit(tmp_path: Path, drawn: list[Figure]) -> None:
    path = plots.plot_pit(torch.tensor([30.0, 10.0, 20.0]), tmp_path / "pit.png", label="rank")
    assert is_whole_png(path)
    (axes,) = drawn[0].axes
    assert heights(axes)[:3] == pytest.approx([1.5, 0.5, 1.0])
    assert axes.get_xlabel() == "rank"
    # sqrt((0.5^2 + 0.5^2 + 0) / 3)
    assert axes.get_title("left") == "root mean square distance from uniform: 0.408"
    with pytest.raises(ValueError, match="2 bins with 0 counts"):
        plots.plot_pit(torch.zeros(2), tmp_path / "pit.png")


def test_a_failed_picture_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pit.png"
    path.write_bytes(b"old")

    def full_disk(figure: Figure, target: IO[bytes], **settings: object) -> None:
        target.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="no space"):
        plots.plot_pit(torch.ones(4), path)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pit.png"]
