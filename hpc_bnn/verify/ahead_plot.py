"""The picture of what a series will be: (data, path) -> path of a PNG.

Shape letters: N series, H history rows, P horizon rows, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from hpc_bnn.verify.plots import BLACK, BLUE, GREY, legend_above, make_panels, save_figure
from hpc_bnn.verify.time_axis import tick_dates

MOST_PANELS = 12
SHOWN = 3  # times the horizon, of the history


def plot_ahead(
    times: Sequence[Sequence[datetime]],
    history: Tensor,
    truth: Tensor,
    quantiles: Mapping[float, Tensor],
    path: Path,
    *,
    names: Sequence[str],
    channels: Sequence[str],
    units: str = "",
) -> Path:
    """Draw median, 50 % and 90 % interval behind the history, a panel for each series and channel,
    at most the first twelve.

    times: N lists of H + P times. history: (N, H, C). truth: (N, P, C), NaN where unknown.
    quantiles: (N, P, C) at the probabilities 0.05, 0.25, 0.5, 0.75, 0.95.
    """
    drawn = list(product(range(len(names)), range(len(channels))))[:MOST_PANELS]
    columns = 1 if len(drawn) <= 3 else 2
    rows = math.ceil(len(drawn) / columns)
    figure, panels = make_panels(rows, columns, height_in=3.2 if rows == 1 else 2.2)
    horizon = truth.shape[1]
    shown = min(history.shape[1], SHOWN * horizon)
    for (n, c), axes in zip(drawn, panels, strict=False):
        # matplotlib takes no list that mixes offsets; what it draws is the clock of the first time.
        zone = times[n][0].tzinfo
        clock: list[Any] = list(times[n][-shown - horizon :])
        past, future = clock[:shown], clock[shown:]
        at = {p: values[n, :, c].tolist() for p, values in quantiles.items()}
        last = history[n, -1:, c].tolist()
        for low, high, alpha, label in ((0.05, 0.95, 0.2, "90 %"), (0.25, 0.75, 0.4, "50 %")):
            style: dict[str, Any] = {"color": BLUE, "linewidth": 0, "label": f"{label} interval"}
            axes.fill_between(future, at[low], at[high], alpha=alpha, **style)
        axes.plot(
            future,
            at[0.5],
            color=BLUE,
            linewidth=1.8,
            label="median",
            marker="o" if horizon == 1 else "",
        )
        axes.plot(past, history[n, -shown:, c].tolist(), color=GREY, linewidth=1.4, label="history")
        known = truth[n, :, c]
        if not bool(known.isnan().all()):
            line = [*last, *known.tolist()]
            axes.plot([*past[-1:], *future], line, "--", color=BLACK, linewidth=1.4, label="truth")
        axes.axvline(past[-1] + (future[0] - past[-1]) / 2, color=GREY, linewidth=0.8)
        axes.margins(x=0.01)
        tick_dates(axes, zone)
        named = f"{names[n]}: {channels[c]}" if names[n] else channels[c]
        title = f"{named}, from {future[0]:%Y-%m-%d %H:%M %Z}".rstrip()
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylabel(units or "value")
    for axes in panels[len(drawn) :]:
        axes.set_visible(False)
    legend_above(figure, panels)
    return save_figure(figure, path)
