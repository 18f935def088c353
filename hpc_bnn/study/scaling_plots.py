"""Pictures of a scaling study, drawn from ``scaling.csv`` and the losses of its runs.

Colour says the mode, the dash says what it is measured against; both stay apart in grey and with
colour-blindness (Okabe, Ito 2008). Bars are the range over the medians of single repeats.
"""

from collections.abc import Sequence
from math import ceil, isfinite
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FormatStrFormatter,
    LogLocator,
    NullLocator,
    ScalarFormatter,
)

from hpc_bnn.study.collect import PHASES, Row
from hpc_bnn.study.outcomes import Outcome
from hpc_bnn.study.projection import Projected
from hpc_bnn.verify.plots import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    clean_axes,
    legend_above,
    make_panels,
    save_figure,
)

GREEN, PURPLE, SKY, YELLOW = "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
OF_MODE = {"sample": (BLUE, "o"), "data": (ORANGE, "s"), "hybrid": (GREEN, "D")}
OF_PHASE = dict(
    zip(PHASES, ("#bbbbbb", SKY, BLUE, "#004466", ORANGE, GREEN, "#eeeeee"), strict=True)
)
TITLES = {
    "fixed_samples": "fixed K and B (strong)",
    "proportional_samples": "K grows with the ranks (weak)",
    "fixed_batch": "fixed K and B, data axis (strong)",
    "growing_batch": "B grows with the ranks (weak)",
}
# Relative sizes below which a phase is not worth its place in the legend.
INVISIBLE = 1e-3

Series = list[Row]


def plot_study(rows: Sequence[Row], outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Draw ``scaling.png``, speed-up and efficiency, and the other pictures; return what was drawn.

    Raises
    ------
    ValueError
        If the table is empty.
    """
    if not rows:
        raise ValueError(f"{folder / 'scaling.csv'}: holds no rows; run and collect points first")
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    drawn = [plot_overview(rows, kinds, folder / "scaling.png")]
    drawn.append(plot_memory(rows, kinds, folder / "memory.png"))
    if any(row["forward_s"] is not None for row in rows):
        drawn.append(plot_phases(rows, kinds, folder / "phases.png"))
    losses = [outcome for outcome in outcomes if outcome.losses]
    if losses:
        drawn.append(plot_losses(losses, folder / "loss.png"))
    return drawn


def plot_overview(rows: Sequence[Row], kinds: Sequence[str], path: Path) -> Path:
    """Draw speed-up and efficiency, one column a kind."""
    figure = Figure(figsize=(max(5.0, 3.2 * len(kinds)), 6.0), layout="constrained")
    grid = figure.subplots(2, len(kinds), sharex="col", squeeze=False)
    for column, kind in enumerate(kinds):
        for axes, draw in zip(grid[:, column], (_speedup, _efficiency), strict=True):
            clean_axes(axes)
            draw(axes, _series(rows, kind))
            if column:
                axes.set_ylabel("")
        grid[0][column].set_title(TITLES[kind], loc="left", fontsize=10)
        grid[0][column].set_xlabel("")
    legend_above(figure, list(grid.flat))
    return save_figure(figure, path)


def plot_phases(rows: Sequence[Row], kinds: Sequence[str], path: Path) -> Path:
    """Draw the phases of a step as stacked bars, one panel a kind."""
    figure, panels = make_panels(len(kinds), 1, height_in=2.6)
    for axes, kind in zip(panels, kinds, strict=True):
        points = [r for r in rows if r["kind"] == kind and r["forward_s"] is not None]
        times = [r["step_time_s"] * 1e3 for r in points]
        places, bottom = range(len(points)), [0.0] * len(points)
        for phase in PHASES:
            heights = [(r[f"{phase}_s"] or 0.0) * 1e3 for r in points]
            if max(heights, default=0.0) <= INVISIBLE * max(times, default=0.0):
                continue
            label = "communication (exposed)" if phase == "communication" else phase
            axes.bar(
                places, heights, 0.75, bottom, color=OF_PHASE[phase], label=label,
                edgecolor="white", linewidth=0.4,
            )  # fmt: skip
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.plot(places, times, "_", color=BLACK, markersize=16, label="step (median)")
        names = [f"{r['mode']}\n{r['sample_ranks']} x {r['data_ranks']}" for r in points]
        axes.set_xticks(list(places), names, fontsize=8)
        axes.set_ylabel("time of a step [ms]")
        axes.set_title(TITLES[kind], loc="left", fontsize=10)
    legend_above(figure, panels)
    return save_figure(figure, path)


def plot_losses(outcomes: Sequence[Outcome], path: Path) -> Path:
    """Draw the loss against the step and against wall time: medians over the repeats of each grid.

    Points with the largest K and B of the study's smallest one only: others minimise another loss.
    """
    least = min(outcomes, key=lambda o: (o.point.ranks, o.point.samples * o.point.batch_size)).point
    groups: dict[tuple[int, int], list[Outcome]] = {}
    for outcome in outcomes:
        point = outcome.point
        if (point.samples, point.batch_size) == (least.samples, least.batch_size):
            groups.setdefault((point.ranks, point.sample_ranks), []).append(outcome)
    figure, (steps, times) = make_panels(1, 2, height_in=3.4)
    styles = ("-", "--", ":", "-.")
    colors = (BLACK, BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW)
    for i, ((ranks, sample_ranks), repeats) in enumerate(sorted(groups.items())):
        curve = list(zip(*(outcome.losses for outcome in repeats), strict=False))
        x = [moment[0][0] for moment in curve]
        wall = [median(entry[3] for entry in moment) for moment in curve]
        y = [median(entry[2] for entry in moment) for moment in curve]
        label = f"{sample_ranks} x {ranks // sample_ranks}"
        color, style = colors[i % len(colors)], styles[i % len(styles)]
        for axes, at in ((steps, x), (times, wall)):
            axes.plot(at, y, linewidth=1.5, label=label, color=color, linestyle=style)
    steps.set_xlabel("step")
    times.set_xlabel("wall time of training steps [s]")
    steps.set_ylabel(f"loss, K = {least.samples}, B = {least.batch_size}")
    legend_above(figure, [steps, times])
    return save_figure(figure, path)


def plot_projection(
    projected: Sequence[Projected], rows: Sequence[Row], path: Path, *, title: str
) -> Path:
    """Draw predicted step time and efficiency with their ranges, and the measured points."""
    figure, (time, efficiency) = make_panels(1, 2, height_in=3.6)
    styles = dict(zip(TITLES, zip((BLUE, ORANGE, GREEN, PURPLE), "osD^", strict=True), strict=True))
    for kind in dict.fromkeys(entry.kind for entry in projected):
        color, marker = styles[kind]
        entries = [entry for entry in projected if entry.kind == kind]
        ranks = [e.ranks for e in entries]
        low, high = [e.low_s * 1e3 for e in entries], [e.high_s * 1e3 for e in entries]
        time.plot(ranks, [e.step_time_s * 1e3 for e in entries], color=color, label=TITLES[kind])
        time.fill_between(ranks, low, high, color=color, alpha=0.2, linewidth=0)
        efficiency.plot(ranks, [e.efficiency for e in entries], color=color)
        slowest_first = sorted(rows, key=lambda r: -float(r["step_time_s"]))
        best = {r["ranks"]: r for r in slowest_first if r["kind"] == kind}
        time.plot(
            list(best), [r["step_time_s"] * 1e3 for r in best.values()], marker, color=color,
            markersize=5,
        )  # fmt: skip
        known = {n: r["efficiency"] for n, r in best.items() if r["efficiency"] is not None}
        efficiency.plot(list(known), list(known.values()), marker, color=color, markersize=5)
    for axes in (time, efficiency):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FormatStrFormatter("%d"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ranks (points: measured, best grid)")
    time.set_yscale("log")
    time.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    time.yaxis.set_major_formatter(ScalarFormatter())
    time.yaxis.set_minor_locator(NullLocator())
    time.set_ylabel("time of a step [ms]")
    time.set_title(title, loc="left", fontsize=9)
    efficiency.axhline(1, color=GREY, linewidth=1, linestyle="--")
    efficiency.set_ylim(0, 1.15)
    efficiency.set_ylabel("parallel efficiency")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return save_figure(figure, path)


def plot_memory(rows: Sequence[Row], kinds: Sequence[str], path: Path) -> Path:
    """Draw the peak memory of a rank, one panel a kind."""
    columns = min(2, len(kinds))
    figure, panels = make_panels(ceil(len(kinds) / columns), columns, height_in=2.8)
    for axes, kind in zip(panels, kinds, strict=False):
        _curves(axes, _series(rows, kind), "peak_memory_bytes", scale=1 / 2**20)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("peak memory of a rank [MiB]")
        axes.set_title(TITLES[kind], loc="left", fontsize=10)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    legend_above(figure, panels)
    return save_figure(figure, path)


def _series(rows: Sequence[Row], kind: str) -> dict[str, Series]:
    """Return the rows of a kind by mode, each with the single rank in front."""
    of_kind = sorted((r for r in rows if r["kind"] == kind), key=lambda r: int(r["ranks"]))
    of_mode = {mode: [r for r in of_kind if r["mode"] == mode] for mode in ("local", *OF_MODE)}
    local = of_mode.pop("local")
    return {m: local + series for m, series in of_mode.items() if series} or {"sample": local}


def _speedup(axes: Axes, by_mode: dict[str, Series]) -> None:
    ranks = _curves(axes, by_mode, "speedup")
    if ranks:
        ideal = [number / min(ranks) for number in ranks]
        axes.plot(ranks, ideal, "--", color=GREY, linewidth=1.2, label="ideal", zorder=1)
    _crowded(axes, by_mode)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("speed-up of throughput")


def _efficiency(axes: Axes, by_mode: dict[str, Series]) -> None:
    _curves(axes, by_mode, "efficiency")
    axes.axhline(1, linestyle="--", color=GREY, linewidth=1.2, label="ideal", zorder=1)
    _crowded(axes, by_mode)
    axes.set_ylim(0, max(1.1, axes.get_ylim()[1] * 1.02))
    axes.set_ylabel("parallel efficiency")


def _crowded(axes: Axes, by_mode: dict[str, Series]) -> None:
    """Shade where ranks share cores."""
    rows = [row for series in by_mode.values() for row in series if row.get("cores")]
    crowded = [row["ranks"] for row in rows if "oversubscribed" in str(row["flags"])]
    free = [row["ranks"] for row in rows if row["ranks"] not in crowded]
    if crowded and free:
        middle = (max(free) + min(crowded)) / 2
        axes.axvspan(
            middle, max(crowded) + 0.15, color=GREY, alpha=0.12, linewidth=0,
            label="ranks share cores", zorder=0,
        )  # fmt: skip


def _curves(axes: Axes, by_mode: dict[str, Series], key: str, *, scale: float = 1.0) -> list[int]:
    """Draw one quantity against the ranks and return the numbers of ranks."""
    numbers: set[int] = set()
    for mode, series in by_mode.items():
        color, marker = OF_MODE[mode]
        known = [row for row in series if row[key] is not None and isfinite(row[key])]
        x, y = [row["ranks"] for row in known], [row[key] * scale for row in known]
        numbers |= set(x)
        axes.plot(x, y, marker=marker, color=color, linewidth=1.6, markersize=5, label=mode)
        ranged = [row for row in known if key == "efficiency" and row["efficiency_low"] is not None]
        if ranged:
            low = [max(0.0, row[key] - row["efficiency_low"]) for row in ranged]
            high = [max(0.0, row["efficiency_high"] - row[key]) for row in ranged]
            at = [row["ranks"] for row in ranged]
            axes.errorbar(
                at, [row[key] for row in ranged], yerr=[low, high], fmt="none", ecolor=color,
                elinewidth=1, capsize=2.5,
            )  # fmt: skip
    ranks = sorted(numbers)
    if ranks and max(ranks) > 8:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ranks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("ranks")
    return ranks
