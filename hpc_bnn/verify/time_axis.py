"""Ticks of axes of time: lead times at parts or multiples of a day, dates in a zone."""

from __future__ import annotations

import math
from datetime import tzinfo

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.ticker import MultipleLocator

# Of ticks a year, month, day, hour, minute, second apart, and of those that begin the next larger.
FORMATS = ("%Y", "%b %Y", "%d %b", "%H:%M", "%H:%M", "%S")
ZERO_FORMATS = ("", "%b %Y", "%d %b", "%d %b", "%H:%M", "%H:%M")


def tick_times(axes: Axes, label: str, span: float) -> None:
    """Put the ticks of times over a span in hours, as the label says, at parts or multiples of a
    day.
    """
    if "[h]" in label:
        steps = (0.25, 0.5, 1, 2, 3, 6, 12, 24, 48, 168)
        step = next((s for s in steps if span / s <= 8), 7 * 24 * math.ceil(span / 1344))
        axes.xaxis.set_major_locator(MultipleLocator(step))


def tick_dates(axes: Axes, zone: tzinfo | None) -> None:
    """Put the ticks of dates at round dates and times of a zone."""
    locator = AutoDateLocator(tz=zone, minticks=3, maxticks=6)  # type: ignore[no-untyped-call]
    formatter = ConciseDateFormatter(  # type: ignore[no-untyped-call]
        locator, tz=zone, show_offset=False, formats=FORMATS, zero_formats=ZERO_FORMATS
    )
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(formatter)
