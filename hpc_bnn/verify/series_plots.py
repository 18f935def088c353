"""Pictures of the scores of time series forecasts, each a function (data, path) -> path of a PNG.

Shape letters: P lead times, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_bnn.verify.plots import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    legend_above,
    make_panels,
    save_figure,
)
from hpc_bnn.verify.tally import PointScores
from hpc_bnn.verify.time_axis import tick_times

MOST_CHANNELS = 12


def plot_lead_scores(
    scores: PointScores,
    lead_times: Sequence[float],
    channels: Sequence[str],
    path: Path,
    *,
    time_label: str = "lead time [h]",
    units: str = "",
    naive: Mapping[str, PointScores] | None = None,
) -> Path:
    """Draw RMSE, CRPS, and the coverage of the 90 % interval where there is one, over lead time;
    over all lead times they are in the titles.

    scores: of points (P, C). At most twelve channels are drawn, the first ones.
    naive: of up to three forecasts to compare with, by name; RMSE beside RMSE, CRPS beside CRPS.
    """
    expected = (len(lead_times), len(channels))
    if scores.rmse.shape != expected or 0 in expected:
        raise ValueError(
            f"plot_lead_scores: scores {tuple(scores.rmse.shape)} of {len(lead_times)} lead times "
            f"and {len(channels)} channels: expected (P, C), some of each"
        )
    shown = channels[:MOST_CHANNELS]
    columns = 2 if bool(scores.coverage_90.isnan().all()) else 3
    figure, panels = make_panels(
        len(shown), columns, height_in=1.8 if len(shown) > 1 else 3.2, share_x=True
    )
    # A single lead time is a point, not a curve.
    marker = "o" if len(lead_times) <= 24 else ""
    for c, name in enumerate(shown):
        row = panels[columns * c : columns * (c + 1)]
        for axes, score, label, colour in zip(
            row, ("rmse", "crps"), ("RMSE of the mean", "CRPS"), (BLACK, BLUE), strict=False
        ):
            values = getattr(scores, score)[:, c].tolist()
            axes.plot(lead_times, values, f"{marker}-", color=colour, label=label, ms=4)
            for style, (of, other) in zip((":", "--", "-."), (naive or {}).items(), strict=False):
                style = style if len(lead_times) > 1 else "x"
                values = getattr(other, score)[:, c].tolist()
                axes.plot(lead_times, values, style, color=GREY, label=of.replace("_", " "))
            axes.set_ylim(bottom=0)
            axes.set_ylabel(f"{score.upper()} [{units}]" if units else score.upper())
        row[0].set_title(name, loc="left")
        rmse, crps = scores.rmse[:, c].square().mean().sqrt(), scores.crps[:, c].mean()
        row[0].set_title(f"all: {float(rmse):.3g}", loc="right", fontsize=9)
        row[1].set_title(f"all: {float(crps):.3g}", loc="right", fontsize=9)
        if columns == 2:
            continue
        right = row[2]
        right.axhline(0.9, color=GREY, linewidth=1.2, linestyle="-", label="nominal")
        observed = scores.coverage_90[:, c].tolist()
        right.plot(lead_times, observed, f"{marker}-", color=ORANGE, label="coverage of 90 %", ms=4)
        # What is near 0.9 is seen to be near 0.9.
        right.set_ylim(max(0.0, min(0.75, *observed) - 0.05), 1.0)
        right.set_ylabel("coverage")
        mean = float(scores.coverage_90[:, c].mean())
        right.set_title(f"all: {mean:.3f} (0.9 asked)", loc="right", fontsize=9)
    if len(shown) < len(channels):
        panels[0].set_title(f"{shown[0]} ({len(shown)} of {len(channels)} channels)", loc="left")
    for axes in panels[-columns:]:
        axes.set_xlabel(time_label)
        tick_times(axes, time_label, lead_times[-1])
    figure.align_ylabels(panels)
    legend_above(figure, panels)
    return save_figure(figure, path)
