"""Reliability diagrams of forecasts of events, a function (data, path) -> path of a PNG.

Where k of M members lay above a climatological quantile, the share of truths that did: a reliable
ensemble is on the diagonal. How often each probability was forecast stands below as bars.

Shape letters: L lead times, M members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from hpc_bnn.verify.channel_scores import ChannelScores, EventScores
from hpc_bnn.verify.plots import BLUE, GREY, ORANGE, legend_above, make_panels, save_figure
from hpc_bnn.verify.weather_plots import channels_to_draw, lead_text

COLOURS = (BLUE, ORANGE, GREY)
BAR_HEIGHT = 0.25  # of the axes, of a probability that is always forecast
DAY_H = 24.0


def plot_events(
    scores: Mapping[str, ChannelScores],
    lead_hours: Sequence[float],
    path: Path,
    *,
    note: str = "",
) -> Path:
    """Draw the events of each channel at the lead time next to a day and at the last (L,), with
    their skill over the climatological probability.
    """
    names = channels_to_draw(list(scores))
    day = min(range(len(lead_hours)), key=lambda at: abs(lead_hours[at] - DAY_H))
    shown = sorted({day, len(lead_hours) - 1})
    figure, panels = make_panels(len(names), len(shown), height_in=2.3, share_x=True)
    for at, axes in enumerate(panels):
        name, lead = names[at // len(shown)], shown[at % len(shown)]
        axes.plot([0, 1], [0, 1], ":", color=GREY, label="reliable")
        events = scores[name]["events"]
        for i, (level, held) in enumerate(events.items()):
            _draw(axes, held, lead, f"above the {level} quantile", COLOURS[i % len(COLOURS)])
        skills = [_number(held["skill"][lead]) for held in events.values()]
        texts = ["-" if math.isnan(value) else f"{value:.2f}" for value in skills]
        axes.set_title(f"{name}, {lead_text(lead_hours[lead])}", loc="left", fontsize=10)
        axes.set_title(f"skill {', '.join(texts)}", loc="right", fontsize=9)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(0, 1.03)
        if at % len(shown) == 0:
            axes.set_ylabel("observed")
        if at // len(shown) == len(names) - 1:
            axes.set_xlabel("forecast probability")
    if note:
        figure.supxlabel(note, fontsize=8, color=GREY)
    legend_above(figure, panels)
    return save_figure(figure, path)


def _draw(axes: Axes, held: EventScores, lead: int, label: str, colour: str) -> None:
    counts = np.array(held["counts"][lead], dtype=np.float64)  # (M + 1, 2); None becomes NaN
    probability = np.linspace(0, 1, len(counts))
    there = counts[:, 0] > 0
    rates = counts[there, 1] / counts[there, 0]
    axes.plot(probability[there], rates, "o-", color=colour, label=label, markersize=3.5)
    share = BAR_HEIGHT * counts[there, 0] / counts[there, 0].sum() if there.any() else []
    axes.bar(probability[there], share, width=0.8 / len(counts), color=colour, alpha=0.3)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
