"""Charts as inline SVG, which takes its colours from the style of the page: readable on a light and
a dark ground and in print.

A curve has the class of its colour, ``c0`` to ``c7`` or ``grey``, and of its style, ``line``,
``faint``, ``dashed``, ``dotted`` or ``points``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from markupsafe import Markup, escape

from hpc_bnn.study.report.axis import Axis, make_axis, tick_text

COLOURS = 8
WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 416, 30, 212
MOST_POINTS = 400  # of a curve: a chart has fewer pixels
SPAN_OF_LOG = 50.0  # ratio from which positive values have a logarithmic axis
BAR = 26  # height of a horizontal bar with its gap


@dataclass(frozen=True)
class Curve:
    """Points of one curve; it has a gap where y is None. ``look``: classes of colour and style."""

    name: str
    look: str
    x: Sequence[float]
    y: Sequence[float | None]

    def points(self) -> list[tuple[float, float]]:
        """Return the points that have a value."""
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None]

    def thinned(self) -> "Curve":
        """Return a curve of few points: of each of equal stretches the least and the largest."""
        if len(self.x) <= MOST_POINTS:
            return self
        kept: list[tuple[float, float]] = []
        points, size = self.points(), math.ceil(2 * len(self.x) / MOST_POINTS)
        for first in range(0, len(points), size):
            part = points[first : first + size]
            kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
        return replace(self, x=[x for x, _ in kept], y=[y for _, y in kept])


def colour(index: int) -> str:
    """Return the class of the colour of the run, or the bar, of a number."""
    return f"c{index % COLOURS}"


def line_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    level: float | None = None,
    has_zero: bool = False,
    may_be_log: bool = False,
    diagonal: bool = False,
    x_ticks: Sequence[float] | None = None,
) -> Markup:
    """Draw curves over one another.

    title: the quantity with its unit. level: the value of a horizontal line, such as a nominal one.
    may_be_log: a logarithmic axis where positive values span much. diagonal: both axes from 0 to 1
    and the line y = x. x_ticks: where x has ticks.
    """
    curves = [curve.thinned() for curve in curves]
    points = [point for curve in curves for point in curve.points()]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    held = ys if level is None else [*ys, level]
    is_log = may_be_log and bool(ys) and min(ys) > 0 and max(ys) > SPAN_OF_LOG * min(ys)
    x = Axis(0, 1, LEFT, RIGHT) if diagonal else make_axis(xs, LEFT, RIGHT, margin=0.02)
    x = replace(x, is_hours=x_label.endswith("[h]"))
    y = Axis(0, 1, BOTTOM, TOP) if diagonal else None
    y = y or make_axis(held, BOTTOM, TOP, margin=0.06, is_log=is_log, has_zero=has_zero)
    parts = _frame(title, x, y, x_label, x_ticks=x_ticks)
    if diagonal:
        parts.append(_line(x, y, [(0, 0), (1, 1)], "grey dashed"))
    if level is not None:
        parts.append(_line(x, y, [(x.low, level), (x.high, level)], "grey dashed"))
    for curve in curves:
        parts += _curve(curve, x, y)
    return _svg(title, parts, HEIGHT)


def histogram(title: str, curves: Sequence[Curve], *, x_label: str) -> Markup:
    """Draw densities relative to uniform: bars of a single curve, else one stepped line each."""
    edges = [e for curve in curves for e in _edges(curve)]
    highest = max([2.0, *(y for curve in curves for _, y in curve.points())])
    x, y = make_axis(edges, LEFT, RIGHT), Axis(0, 1.08 * highest, BOTTOM, TOP)
    centres = curves[0].x if curves else []
    are_few = 0 < len(centres) <= 10 and all(at == int(at) for at in centres)
    ticks = centres if are_few else None
    parts = _frame(title, x, y, x_label, x_ticks=ticks)
    for curve in curves:
        edges = _edges(curve)
        values = [0.0 if v is None else v for v in curve.y]
        if len(curves) == 1:
            for low, high, value in zip(edges, edges[1:], values, strict=False):
                left, right, top = x.place(low) + 1, x.place(high) - 1, y.place(value)
                parts.append(_rectangle(left, top, right - left, BOTTOM - top, curve.look))
        else:
            bins = zip(edges, edges[1:], values, strict=False)
            stairs = [(edge, value) for low, high, value in bins for edge in (low, high)]
            parts.append(_line(x, y, stairs, f"{curve.look} line", curve.name))
    parts.append(_line(x, y, [(x.low, 1), (x.high, 1)], "ink dashed"))
    return _svg(title, parts, HEIGHT)


def stacked_bars(
    title: str, names: Sequence[str], stacks: Sequence[Sequence[tuple[str, float]]], *, unit: str
) -> Markup:
    """Draw a horizontal bar for each name, of parts (class, length)."""
    bottom = TOP + BAR * len(names)
    left = 150
    totals = [sum(length for _, length in stack) for stack in stacks]
    x = make_axis([0.0, *totals], left, RIGHT, has_zero=True, margin=0.02)
    parts = [Markup('<text class="title" x="4" y="16">{}</text>').format(title)]
    for tick in x.ticks(5):
        at = x.place(tick)
        parts.append(_segment(at, TOP, at, bottom, "grid"))
        parts.append(_text(at, bottom + 15, tick_text(tick, x.ticks(5)), "middle"))
    parts.append(_text((left + RIGHT) / 2, bottom + 32, unit, "middle"))
    for row, (name, stack) in enumerate(zip(names, stacks, strict=True)):
        top, done = TOP + BAR * row + 4, 0.0
        shown = name if len(name) <= 22 else f"{name[:20]}..."
        parts.append(_text(left - 8, top + 13, shown, "end"))
        for look, length in stack:
            start, end = x.place(done), x.place(done + length)
            parts.append(_rectangle(start, top, max(0.0, end - start), BAR - 8, look))
            done += length
    return _svg(title, parts, bottom + 40)


def running_mean(values: Sequence[float | None]) -> list[float | None]:
    """Average each value with its neighbours, a fiftieth of all, fewer at the ends."""
    half = max(1, len(values) // 50) // 2
    sums = list(accumulate((value or 0.0 for value in values), initial=0.0))
    counts = list(accumulate((value is not None for value in values), initial=0))
    mean: list[float | None] = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        first, last = i - reach, i + reach + 1
        count = counts[last] - counts[first]
        mean.append((sums[last] - sums[first]) / count if count else None)
    return mean


def _frame(
    title: str, x: Axis, y: Axis, x_label: str, *, x_ticks: Sequence[float] | None
) -> list[Markup]:
    """Draw title, grid, ticks and the label of x."""
    parts = [Markup('<text class="title" x="4" y="16">{}</text>').format(title)]
    ticks = y.ticks(5)
    for value in ticks:
        at = y.place(value)
        parts.append(_segment(LEFT, at, RIGHT, at, "grid"))
        parts.append(_text(LEFT - 6, at + 4, tick_text(value, ticks), "end"))
    ticks = list(x_ticks) if x_ticks is not None else x.ticks(6)
    for value in ticks:
        parts.append(_segment(x.place(value), BOTTOM, x.place(value), BOTTOM + 4, "axis"))
        parts.append(_text(x.place(value), BOTTOM + 16, tick_text(value, ticks), "middle"))
    parts.append(_segment(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
    parts.append(_text((LEFT + RIGHT) / 2, BOTTOM + 33, x_label, "middle"))
    return parts


def _curve(curve: Curve, x: Axis, y: Axis) -> list[Markup]:
    points = list(zip(curve.x, curve.y, strict=True))
    if "points" in curve.look.split() or len(curve.points()) == 1:
        dot = '<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}: {:g}</title></circle>'
        look = curve.look.replace("line", "points").replace("dashed", "points")
        return [
            Markup(dot).format(look, x.place(at), y.place(v), curve.name, v)
            for at, v in curve.points()
        ]
    stretches: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append((at, value))
    return [_line(x, y, stretch, curve.look, curve.name) for stretch in stretches if stretch]


def _edges(curve: Curve) -> list[float]:
    """Return the borders between the bins of a histogram of equal bins."""
    half = (curve.x[1] - curve.x[0]) / 2 if len(curve.x) > 1 else 0.5
    return [*(at - half for at in curve.x), *(at + half for at in curve.x[-1:])]


def _line(
    x: Axis, y: Axis, points: Sequence[tuple[float, float]], look: str, name: str = ""
) -> Markup:
    path = " ".join(f"{x.place(at):.1f},{y.place(value):.1f}" for at, value in points)
    title = Markup("<title>{}</title>").format(name) if name else Markup()
    return Markup('<polyline class="{}" points="{}">{}</polyline>').format(look, path, title)


def _segment(x1: float, y1: float, x2: float, y2: float, look: str) -> Markup:
    form = '<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'
    return Markup(form).format(look, x1, y1, x2, y2)


def _rectangle(x: float, y: float, width: float, height: float, look: str) -> Markup:
    form = '<rect class="bar {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
    return Markup(form).format(look, x, y, width, height)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    form = '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>'
    return Markup(form).format(x, y, anchor, text)


def _svg(title: str, parts: Sequence[Markup], height: int) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, height, escape(title)
    )
    return head + Markup("\n").join(parts) + Markup("</svg>")
