"""Maps of a forecast whose truth is not known yet: ensemble mean and spread at a few lead times.

Shape letters: L lead times, H latitude (north to south), W longitude (eastward).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from torch import Tensor

from hpc_bnn.verify.plots import make_panels, save_figure
from hpc_bnn.verify.weather_maps import (
    DIVERGING,
    SIGNED_SHARE,
    draw_map,
    edges_of,
    map_height_in,
    unwrapped,
)
from hpc_bnn.verify.weather_plots import lead_text, pretty


def plot_forecast_maps(
    mean: Tensor,
    spread: Tensor | None,
    latitude: Tensor,
    longitude: Tensor,
    path: Path,
    *,
    name: str,
    units: str,
    start_s: int,
    lead_hours: Sequence[float],
    members: int,
) -> Path:
    """Draw ensemble mean and spread of one channel, a row for each lead time.

    mean, spread: (L, H, W); NaN where there is no value. latitude: (H,), longitude: (W,) in
        degrees.
    start_s: the time the forecast starts from, seconds since 1970 UTC.
    """
    held = mean[mean.isfinite()]
    low, high = (float(held.min()), float(held.max())) if held.numel() else (0.0, 1.0)
    colours = "viridis"
    if min(-low, high) > SIGNED_SHARE * max(-low, high):
        colours, high = DIVERGING, max(-low, high)
        low = -high
    edges = edges_of(unwrapped(longitude)), edges_of(latitude).clamp(-90, 90)
    columns = 1 if spread is None else 2
    height_in = map_height_in(*edges) + 0.5
    figure, panels = make_panels(len(lead_hours), columns, height_in=height_in)
    unit = f"{name} [{pretty(units)}]"
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(start_s))
    largest = None if spread is None else float(spread.nan_to_num().max()) or 1.0
    for i, hours in enumerate(lead_hours):
        valid = f"{start + timedelta(hours=hours):%Y-%m-%d %H:%M} UTC"
        title = f"{'mean' if members > 1 else 'member'} after {lead_text(hours)}, {valid}"
        left = panels[columns * i]
        draw_map(left, title, mean[i], edges, cmap=colours, limits=(low, high), unit=unit)
        left.set_ylabel("latitude\n[degrees north]")
        if spread is not None:
            right = panels[columns * i + 1]
            limits = (0.0, largest)
            draw_map(right, "spread", spread[i], edges, cmap="magma_r", limits=limits, unit=unit)
    for axes in panels[-columns:]:
        axes.set_xlabel("longitude [degrees east]")
    many = f"{members} members" if members > 1 else "one member"
    figure.suptitle(f"{name}: {many}, start {start:%Y-%m-%d %H:%M} UTC", fontsize=11)
    return save_figure(figure, path)
