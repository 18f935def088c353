"""Pictures of the scores of weather forecasts, each a function (data, path) -> path of a PNG.

Scores are those of `WeatherTally.result`: by channel name, lists over lead times. What has no value
(NaN, or the null of a JSON file) is a gap in its curve.

Shape letters: L lead times, M members.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from hpc_bnn.verify.channel_scores import ChannelScores
from hpc_bnn.verify.plots import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    legend_above,
    make_panels,
    save_figure,
)

MOST_CHANNELS = 6
# What papers show first: WeatherBench 2's headline variables.
HEADLINE = ("z500", "t850", "q700", "t2m", "msl", "u10", "u850", "v850", "v10")


def channels_to_draw(names: Sequence[str], most: int = MOST_CHANNELS) -> list[str]:
    """Choose at most that many channels to draw, well-known ones first, in their given order."""
    by_fame = sorted(names, key=lambda n: HEADLINE.index(n) if n in HEADLINE else len(HEADLINE))
    return [name for name in names if name in by_fame[:most]]


def plot_scores(
    scores: Mapping[str, ChannelScores],
    lead_hours: Sequence[float],
    units: Mapping[str, str],
    path: Path,
    *,
    note: str = "",
) -> Path:
    """Draw RMSE, CRPS and ACC of forecast, persistence and climatology over lead time (L,), with
    those of the forecast at the first and the last one in the titles.

    One row a channel; units: of each channel by name; note: what was scored, below the panels.
    """
    names, leads = _checked("plot_scores", scores, lead_hours, units)
    figure, panels = make_panels(len(names), 3, height_in=1.7, share_x=True)
    for at, axes in enumerate(panels):
        name, score = names[at // 3], ("rmse", "crps", "acc")[at % 3]
        held = scores[name]
        curves: list[tuple[str, Any, str, str]] = [
            ("ensemble", held, BLUE, "o-"),
            ("persistence", held["persistence"], ORANGE, "s-"),
            ("climatology", held["climatology"], GREY, "^--"),
        ]
        for label, values, colour, style in curves:
            if score in values:  # the anomaly of the climatology is zero: no correlation
                _line(axes, leads, values[score], style, color=colour, label=label)
        unit = f" [{pretty(units[name])}]" if score != "acc" else ""
        _label(axes, name if at % 3 == 0 else "", score.upper() + unit)
        axes.set_title(_ends(lead_hours, curves[0][1][score]), loc="right", fontsize=8)
        if score != "acc":
            axes.set_ylim(bottom=0)
    _finish(figure, panels, 3, lead_hours, note)
    return save_figure(figure, path)


def plot_spread_skill(
    scores: Mapping[str, ChannelScores],
    lead_hours: Sequence[float],
    units: Mapping[str, str],
    path: Path,
    *,
    note: str = "",
) -> Path:
    """Draw the spread sqrt((M + 1) / M) s against the RMSE of the mean, and their ratio.

    Equal curves, a ratio of 1: the ensemble knows how uncertain it is; below 1 it is overconfident.
    """
    names, leads = _checked("plot_spread_skill", scores, lead_hours, units)
    members = len(scores[names[0]]["rank_histogram"][0]) - 1
    if members < 2:
        raise ValueError("plot_spread_skill: 1 member has no spread; expected at least 2 members")
    factor = math.sqrt((members + 1) / members)
    named = rf"$\sqrt{{(M + 1) / M}} \times$ spread, M = {members}"
    figure, panels = make_panels(len(names), 2, height_in=1.85, share_x=True)
    for row, name in enumerate(names):
        left, right = panels[2 * row : 2 * row + 2]
        held = scores[name]
        spread = [factor * value for value in _numbers(held["spread"])]
        _line(left, leads, held["rmse"], "o-", color=BLACK, label="RMSE of the mean")
        _line(left, leads, spread, "s-", color=BLUE, label=named)
        left.set_ylim(bottom=0)
        _label(left, name, f"RMSE, spread [{pretty(units[name])}]")
        left.set_title(f"RMSE {_ends(lead_hours, held['rmse'])}", loc="right", fontsize=8)
        _line(right, leads, held["spread_skill_ratio"], "o-", color=BLUE)
        right.axhline(1, color=GREY, linewidth=1.2)
        # A ratio near 1 is seen to be near 1.
        low, high = right.get_ylim()
        right.set_ylim(min(low, 0.8), max(high, 1.2))
        _label(right, "", "spread-skill ratio")
        ends = _ends(lead_hours, held["spread_skill_ratio"])
        right.set_title(f"{ends} (1 asked)", loc="right", fontsize=8)
    _finish(figure, panels, 2, lead_hours, note)
    return save_figure(figure, path)


def plot_ranks(
    scores: Mapping[str, ChannelScores],
    lead_hours: Sequence[float],
    path: Path,
    *,
    note: str = "",
) -> Path:
    """Draw the rank of the truth among the members, relative to uniform, at up to 3 lead times,
    with the share of truths in the 90 % interval in the titles.

    A valley: too little spread; a hill: too much; a slope: bias.
    """
    names, _ = _checked("plot_ranks", scores, lead_hours, None)
    last = len(lead_hours) - 1
    shown = sorted({0, last // 2, last})
    figure, panels = make_panels(len(names), len(shown), height_in=1.6, share_x=True)
    for at, axes in enumerate(panels):
        name, lead = names[at // len(shown)], shown[at % len(shown)]
        counts = _numbers(scores[name]["rank_histogram"][lead])
        total, bins = sum(counts), len(counts)
        share = [count * bins / total if total > 0 else math.nan for count in counts]
        axes.bar(range(bins), share, width=0.92, color=BLUE, alpha=0.7)
        axes.axhline(1, color=BLACK, linewidth=1)
        axes.set_ylim(0, 1.15 * max([2.0, *(x for x in share if math.isfinite(x))]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_title(f"{name}, {lead_text(lead_hours[lead])}", loc="left", fontsize=10)
        inside = _numbers(scores[name].get("coverage_90", [math.nan] * (last + 1)))[lead]
        if math.isfinite(inside):
            axes.set_title(f"in 90 %: {100 * inside:.0f} %", loc="right", fontsize=9)
        if at % len(shown) == 0:
            axes.set_ylabel("density /\nuniform")
        if at // len(shown) == len(names) - 1:
            axes.set_xlabel("members below the truth")
    _note(figure, note)
    return save_figure(figure, path)


def pretty(units: str) -> str:
    """Write powers of units, "m2 s-2" or "m**2 s**-2", as exponents; "1" where there are none."""
    return re.sub(r"(?<=[A-Za-z])(?:\*\*)?(-?\d+)", r"$^{\1}$", units) or "1"


def lead_text(hours: float) -> str:
    """Write a lead time in hours, from four days on in days."""
    return f"{hours / 24:g} d" if hours >= 96 else f"{hours:g} h"


def _checked(
    where: str,
    scores: Mapping[str, ChannelScores],
    lead_hours: Sequence[float],
    units: Mapping[str, str] | None,
) -> tuple[list[str], list[float]]:
    """Return the channels to draw and the lead times in the unit of the axis."""
    lengths = {name: len(held["rmse"]) for name, held in scores.items()}
    if not scores or not lead_hours or set(lengths.values()) != {len(lead_hours)}:
        raise ValueError(
            f"{where}: {len(lead_hours)} lead times, scores at {lengths}: expected scores of at "
            "least one channel at each of the lead times"
        )
    names = channels_to_draw(list(scores))
    absent = [name for name in names if units is not None and name not in units]
    if absent:
        raise ValueError(f"{where}: no units of {absent}; got those of {sorted(units or ())}")
    return names, [hours / _lead_unit(lead_hours)[1] for hours in lead_hours]


def _lead_unit(lead_hours: Sequence[float]) -> tuple[str, float]:
    """Return the unit of an axis of lead times, and its hours."""
    return ("d", 24.0) if max(lead_hours) > 72 else ("h", 1.0)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def _line(
    axes: Axes,
    leads: Sequence[float],
    values: Sequence[float],
    style: str,
    *,
    color: str,
    label: str | None = None,
) -> None:
    size = 4 if len(leads) <= 15 else 0
    axes.plot(
        leads, _numbers(values), style, color=color, label=label, linewidth=1.6, markersize=size
    )


def _label(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axes.set_ylabel(quantity, fontsize=9)
    axes.tick_params(labelsize=8)
    # Plain numbers: the common factor of matplotlib would stand where the title is.
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))


def _ends(lead_hours: Sequence[float], values: Sequence[float]) -> str:
    """Write a score at the first and the last lead time where it has a value."""
    numbers = _numbers(values)
    shown = [at for at in sorted({0, len(numbers) - 1}) if math.isfinite(numbers[at])]
    return ", ".join(f"{lead_text(lead_hours[at])}: {numbers[at]:.3g}" for at in shown)


def _note(figure: Figure, note: str) -> None:
    if note:
        figure.supxlabel(note, fontsize=8, color=GREY)


def _finish(
    figure: Figure, panels: Sequence[Axes], columns: int, lead_hours: Sequence[float], note: str
) -> None:
    """Label the lead times below the last row, name the curves above the first."""
    _note(figure, note)
    unit, hours = _lead_unit(lead_hours)
    longest = max(lead_hours) / hours
    # Hours that divide a day, and whole days.
    step = next((s for s in (1, 2, 3, 6, 12) if longest <= 7 * s), 24 if unit == "h" else 30)
    for axes in panels[-columns:]:
        axes.set_xlabel(f"lead time [{unit}]")
        axes.xaxis.set_major_locator(MultipleLocator(step))
        axes.set_xlim(0, 1.03 * longest)
    figure.align_ylabels(panels)
    figure.set_layout_engine("constrained", w_pad=0.09)
    legend_above(figure, panels)
