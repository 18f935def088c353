"""Pictures of a training and of its uncertainty, each a function (data, path) -> path of a PNG.

Drawn with matplotlib's object interface on the Agg canvas: no display, no pyplot, no global state.
A file appears under its name only when it is complete. Colours are those of Okabe and Ito (2008),
distinguishable with colour-blindness; everything stays legible 900 pixels wide.

Shape letters: E examples (panels), H history steps, P horizon steps, K bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from hpc_bnn.files import whole_file
from hpc_bnn.verify.calibration import Reliability, expected_calibration_error
from hpc_bnn.verify.time_axis import tick_dates, tick_times

BLACK, BLUE, ORANGE, GREY = "#000000", "#0072b2", "#d55e00", "#888888"
WIDTH_IN = 9.0
DOTS_PER_INCH = 200


def plot_loss(
    metrics: Sequence[Mapping[str, float]], path: Path, *, loss_name: str = "NLL"
) -> Path:
    """Draw loss, data term and complexity against the step from the records of a metrics.jsonl.

    A record with "step" and "loss", "nll" (the data term, whatever the loss) or "kl" is a training
    step; "validation_loss", "validation_nll" and "validation_kl" are drawn as points beside them,
    "validation_crps" in a panel of its own, for it may have other units. What no record holds has
    no panel, nor has a complexity that is 0 throughout.
    loss_name: of the data term.
    """
    names = {
        "loss": "loss / example",
        "nll": f"{loss_name}\n/ example",
        "kl": "KL or -log prior\n[nats]",
        "crps": "CRPS / point",
    }
    held = [n for n in names if any(n in r or f"validation_{n}" in r for r in metrics)]
    if "kl" in held and not any(r.get("kl") for r in metrics):
        held.remove("kl")
    if not held:
        raise ValueError(
            f"plot_loss: {len(metrics)} records without loss, nll and kl: "
            "expected the records of a metrics.jsonl with at least one training step"
        )
    figure, panels = make_panels(len(held), 1, height_in=2.0, share_x=True)
    for axes, name in zip(panels, held, strict=True):
        steps, values = _curve(metrics, name)
        smooth = _running_mean(values, max(1, len(values) // 50))
        if len(values) > 100:
            axes.plot(steps, values, color=BLUE, alpha=0.3, linewidth=0.8, label="each step")
            axes.plot(steps, smooth, color=BLUE, linewidth=1.8, label="running mean")
        elif values:
            axes.plot(steps, values, color=BLUE, linewidth=1.8, label="training")
        steps, validation = _curve(metrics, f"validation_{name}")
        if validation:
            axes.plot(steps, validation, "o-", color=ORANGE, ms=5, lw=0.8, label="validation")
        shown = values + validation
        if shown and min(shown) > 0 and max(shown) > 50 * min(shown):
            axes.set_yscale("log")
        axes.set_ylabel(names[name])
        ends = [f"training {smooth[-1]:.4g}"] if smooth else []
        ends += [f"validation {validation[-1]:.4g}"] if validation else []
        axes.set_title(f"at the end: {', '.join(ends)}" if ends else "", loc="right", fontsize=9)
    panels[-1].set_xlabel("step")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(panels)
    legend_above(figure, panels)
    return save_figure(figure, path)


def plot_forecast(
    time: Tensor,
    history: Tensor,
    truth: Tensor,
    quantiles: Mapping[float, Tensor],
    path: Path,
    *,
    time_label: str = "lead time [h]",
    value_label: str | Sequence[str] = "value",
    titles: Sequence[str] | None = None,
    clocks: Sequence[Sequence[datetime]] | None = None,
    columns: int | None = None,
) -> Path:
    """Draw forecasts as median, 50 % and 90 % interval over history and truth, one panel each.

    time: (H + P,) of history and targets; 0 at the last step of the history is usual.
    value_label: of all panels, or of each.
    clocks: E lists of H + P dates, which the axes then show in their zone instead of ``time``.
    columns: of panels; their number decides if it is left out.
    history: (E, H). truth: (E, P).
    quantiles: (E, P) at each of the probabilities 0.05, 0.25, 0.5, 0.75, 0.95.
    """
    num_examples, num_history, horizon = len(history), history.shape[-1], truth.shape[-1]
    needed = (0.05, 0.25, 0.5, 0.75, 0.95)
    absent = [p for p in needed if p not in quantiles]
    if absent:
        raise ValueError(
            f"plot_forecast: no quantiles at {absent}; expected {list(needed)}, "
            f"got {sorted(quantiles)}"
        )
    expected = (num_examples, horizon)
    others = {p: tuple(q.shape) for p, q in quantiles.items() if p in needed}
    others = {p: shape for p, shape in others.items() if shape != expected}
    if truth.shape != expected or others or time.shape != (num_history + horizon,):
        raise ValueError(
            f"plot_forecast: time {tuple(time.shape)}, history {tuple(history.shape)}, truth "
            f"{tuple(truth.shape)}, quantiles {others or expected}: "
            "expected (H + P,), (E, H), (E, P), (E, P)"
        )
    columns = columns or (1 if num_examples <= 3 else 2)
    rows = math.ceil(num_examples / columns)
    figure, panels = make_panels(rows, columns, height_in=2.5 if rows <= 3 else 2.0)
    labels = [value_label] * num_examples if isinstance(value_label, str) else value_label
    for e, axes in enumerate(panels[:num_examples]):
        at_times: list[Any] = time.tolist() if clocks is None else list(clocks[e])
        past, future = at_times[:num_history], at_times[num_history:]
        at = {p: quantiles[p][e].tolist() for p in needed}
        for low, high, alpha, label in ((0.05, 0.95, 0.2, "90 %"), (0.25, 0.75, 0.4, "50 %")):
            style: dict[str, Any] = {"color": BLUE, "linewidth": 0, "label": f"{label} interval"}
            axes.fill_between(future, at[low], at[high], alpha=alpha, **style)
        axes.plot(future, at[0.5], color=BLUE, linewidth=1.8, label="median")
        joined = [*history[e, -1:].tolist(), *truth[e].tolist()]
        axes.plot(past, history[e].tolist(), color=GREY, linewidth=1.4, label="history")
        axes.plot([*past[-1:], *future], joined, "--", color=BLACK, linewidth=1.4, label="truth")
        middle = past[-1] + (future[0] - past[-1]) / 2 if past else future[0]
        axes.axvline(middle, color=GREY, linewidth=0.8)
        axes.margins(x=0.01)
        if clocks is None:
            tick_times(axes, time_label, float(time[-1] - time[0]))
        else:
            tick_dates(axes, future[0].tzinfo)
        if titles is not None:
            axes.set_title(titles[e], loc="left", fontsize=10)
        if e % columns == 0 or labels[e] != labels[e - 1]:
            axes.set_ylabel(labels[e])
        if e + columns >= num_examples:
            axes.set_xlabel(time_label)
    for axes in panels[num_examples:]:
        axes.set_visible(False)
    legend_above(figure, panels)
    return save_figure(figure, path)


def plot_reliability(record: Reliability, path: Path) -> Path:
    """Draw accuracy against confidence per bin with its 90 % sampling range, and the counts."""
    bins = len(record.count)
    figure = Figure(figsize=(WIDTH_IN * 0.72, WIDTH_IN * 0.8), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    held = record.count > 0
    confidence = record.mean_confidence()[held].cpu()
    accuracy, count = record.accuracy()[held].cpu(), record.count[held].cpu()
    # The spread that accuracy would have if the confidence were right (binomial, normal range).
    half = 1.645 * (confidence * (1 - confidence) / count).sqrt()
    low, high = (confidence - half).clamp(min=0), (confidence + half).clamp(max=1)
    top.plot([0, 1], [0, 1], color=GREY, linewidth=1.2, label="calibrated")
    style: dict[str, Any] = {"color": GREY, "alpha": 0.45, "linewidth": 7}
    at = confidence.tolist()
    top.vlines(at, low.tolist(), high.tolist(), label="90 % range if calibrated", **style)
    top.plot(at, accuracy.tolist(), "o-", color=BLUE, label="observed", clip_on=False)
    top.set_ylabel("accuracy")
    top.set_xlim(0, 1)
    top.set_ylim(0, 1.02)
    top.set_title(
        f"{int(record.count.sum())} examples, ECE = {expected_calibration_error(record):.4f}",
        loc="left",
    )
    top.legend(loc="upper left", frameon=False)
    centres = [(k + 0.5) / bins for k in range(bins)]
    bottom.bar(centres, record.count.tolist(), width=0.9 / bins, color=BLUE, alpha=0.6)
    bottom.set_ylabel("examples")
    bottom.set_xlabel("confidence")
    for axes in (top, bottom):
        clean_axes(axes)
    return save_figure(figure, path)


def plot_pit(counts: Tensor, path: Path, *, label: str = "PIT") -> Path:
    """Draw a histogram (K,) of PIT values or ranks relative to uniform, with a 90 % band.

    The band is the binomial range of one bin if the forecast is calibrated and examples are
    independent; neighbouring hours or points are not, and scatter more.
    """
    bins, total = counts.numel(), float(counts.sum())
    if bins < 2 or total <= 0:
        raise ValueError(
            f"plot_pit: {bins} bins with {total:g} counts: expected at least 2 bins, some counts"
        )
    figure, (axes,) = make_panels(1, 1, height_in=3.8)
    share = (counts.double() * bins / total).tolist()
    centres = [(k + 0.5) / bins for k in range(bins)]
    axes.bar(centres, share, width=0.94 / bins, color=BLUE, alpha=0.7, label="observed")
    half = 1.645 * math.sqrt((bins - 1) / total)
    axes.axhspan(
        max(0.0, 1 - half), 1 + half, color=GREY, alpha=0.35, linewidth=0, label="90 % if uniform"
    )
    axes.axhline(1, color=BLACK, linewidth=1)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.25 * max(*share, 1 + half))
    axes.set_xlabel(label)
    axes.set_ylabel("density relative to uniform")
    off = math.sqrt(sum((x - 1) ** 2 for x in share) / bins)
    axes.set_title(f"root mean square distance from uniform: {off:.3f}", loc="left", fontsize=10)
    axes.legend(loc="upper right", ncols=2, frameon=False)
    return save_figure(figure, path)


def make_panels(
    rows: int, columns: int, *, height_in: float, share_x: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a figure of rows x columns clean panels, in reading order."""
    size = (WIDTH_IN, height_in * rows + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharex=share_x, squeeze=False)
    panels: list[Axes] = list(grid.flat)
    for axes in panels:
        clean_axes(axes)
    return figure, panels


def clean_axes(axes: Axes) -> None:
    """Remove the upper and right side of the frame and draw pale horizontal lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def legend_above(figure: Figure, panels: Sequence[Axes]) -> None:
    """Name every curve once for all panels, where no curve runs."""
    named: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(named.values()), list(named), loc="outside upper center", ncols=5, frameon=False
    )


def _curve(metrics: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Collect steps and finite values of one quantity."""
    points = [(r["step"], r[name]) for r in metrics if name in r and math.isfinite(r[name])]
    return [step for step, _ in points], [value for _, value in points]


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Average each value with up to width // 2 neighbours, equally many on both sides."""
    if not values:
        return []
    total = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    middle = torch.arange(len(values))
    # Equally many, fewer at the ends: the mean of a slope stays on the slope.
    half = torch.minimum(middle, len(values) - 1 - middle).clamp(max=width // 2)
    sums = total[middle + half + 1] - total[middle - half]
    mean: list[float] = (sums / (2 * half + 1)).tolist()
    return mean


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG so that no reader sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    with whole_file(path, rivals=True) as file:
        figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    return path
