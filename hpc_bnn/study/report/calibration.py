"""Calibration: does what happened fall where the forecast says, as often as it says."""

from collections.abc import Sequence

from hpc_bnn.study.report.blocks import Block, Charts, mapping, numbers
from hpc_bnn.study.report.chart import Curve, colour, histogram, line_chart
from hpc_bnn.study.report.folders import Run
from hpc_bnn.study.report.scores import is_of_fields, names_of_channels

MOST_CHANNELS = 6


def calibration_blocks(runs: Sequence[Run]) -> list[Block]:
    """Return reliability of classes, PIT or rank histograms, coverage over lead time."""
    return [
        *_reliability(runs),
        *_pit(runs),
        *_coverage_of_series(runs),
        *_fields([run for run in runs if is_of_fields(run)], runs),
    ]


def _reliability(runs: Sequence[Run]) -> list[Charts]:
    curves = []
    for at, run in enumerate(runs):
        held = mapping(run.evaluation.get("reliability"))
        pairs = [
            (x, y)
            for x, y in zip(
                numbers(held.get("confidence")), numbers(held.get("accuracy")), strict=False
            )
            if x is not None and y is not None
        ]
        if pairs:
            x, y = zip(*pairs, strict=True)
            curves.append(Curve(run.name, f"{colour(at)} line", x, y))
    if not curves:
        return []
    drawn = [*curves, *(Curve(c.name, c.look.replace("line", "points"), c.x, c.y) for c in curves)]
    chart = line_chart("accuracy", drawn, x_label="confidence", diagonal=True)
    legend = {"calibrated": "grey dashed", **{curve.name: curve.look for curve in curves}}
    return [Charts([chart], legend, "Reliability: below the diagonal is overconfident")]


def _pit(runs: Sequence[Run]) -> list[Charts]:
    curves = []
    for at, run in enumerate(runs):
        density = _density(numbers(run.evaluation.get("pit_counts")))
        centres = [(k + 0.5) / len(density) for k in range(len(density))]
        if density:
            curves.append(Curve(run.name, colour(at), centres, density))
    if not curves:
        return []
    chart = histogram("density relative to uniform", curves, x_label="PIT of the truth")
    caption = "PIT histogram: a valley is too little spread, a hill too much, a slope a bias"
    return [Charts([chart], _legend(curves), caption)]


def _coverage_of_series(runs: Sequence[Run]) -> list[Charts]:
    channels = list(dict.fromkeys(n for r in runs for n in mapping(r.evaluation.get("channels"))))
    charts, legend = [], dict[str, str]()
    for name in channels[:MOST_CHANNELS]:
        curves = []
        for at, run in enumerate(runs):
            held = mapping(mapping(run.evaluation.get("channels")).get(name))
            values = numbers(mapping(held.get("by_lead_time")).get("coverage_90"))
            curves.append(_over(numbers(run.evaluation.get("lead_time_h")), values, run, at))
        curves = [curve for curve in curves if curve.points()]
        if curves:
            legend |= {curve.name: curve.look for curve in curves}
            title = f"{name}: coverage of the 90 % interval"
            charts.append(line_chart(title, curves, x_label="lead time [h]", level=0.9))
    return [Charts(charts, {**legend, "nominal": "grey dashed"})] if charts else []


def _fields(scored: Sequence[Run], runs: Sequence[Run]) -> list[Charts]:
    """Draw ranks at the first and the last lead time, spread-skill ratio and coverage over all."""
    names = names_of_channels(scored)[:MOST_CHANNELS] if scored else []
    ranks, over_time = [], []
    for name in names:
        held = [(at, run, _scores(run, name)) for at, run in enumerate(runs) if run in scored]
        hours = [h for h in numbers(scored[0].evaluation.get("lead_hours")) if h is not None]
        for lead in sorted({0, len(hours) - 1}) if hours else ():
            curves = []
            for at, run, scores in held:
                rows = scores.get("rank_histogram")
                row = rows[lead] if isinstance(rows, list) and lead < len(rows) else None
                density = _density(numbers(row))
                curves.append(Curve(run.name, colour(at), list(range(len(density))), density))
            curves = [curve for curve in curves if curve.points()]
            if curves:
                title = f"{name}, {hours[lead]:g} h: density relative to uniform"
                ranks.append(histogram(title, curves, x_label="members below the truth"))
        for key, label, nominal in (
            ("spread_skill_ratio", "spread-skill ratio", 1.0),
            ("coverage_90", "coverage of the 90 % interval", 0.9),
        ):
            curves = [_over(hours, numbers(s.get(key)), run, at) for at, run, s in held]
            curves = [curve for curve in curves if curve.points()]
            if curves:
                title = f"{name}: {label}"
                over_time.append(line_chart(title, curves, x_label="lead time [h]", level=nominal))
    legend = {run.name: f"{colour(at)} line" for at, run in enumerate(runs) if run in scored}
    caption = "Rank histograms: a valley is too little spread, a hill too much, a slope a bias"
    bars = {run.name: f"bar {colour(runs.index(run))}" for run in scored}
    blocks = [Charts(ranks, bars if len(scored) == 1 else legend, caption)] if ranks else []
    if over_time:
        blocks.append(Charts(over_time, {**legend, "nominal": "grey dashed"}))
    return blocks


def _scores(run: Run, name: str) -> dict[str, object]:
    return mapping(mapping(run.evaluation.get("scores")).get(name))


def _over(
    hours: Sequence[float | None], values: Sequence[float | None], run: Run, at: int
) -> Curve:
    pairs = [(h, v) for h, v in zip(hours, values, strict=False) if h is not None]
    return Curve(run.name, f"{colour(at)} line", [h for h, _ in pairs], [v for _, v in pairs])


def _density(counts: Sequence[float | None]) -> list[float]:
    """Return counts relative to their mean; none where there are no counts."""
    held = [0.0 if count is None else count for count in counts]
    total = sum(held)
    return [count * len(held) / total for count in held] if total > 0 else []


def _legend(curves: Sequence[Curve]) -> dict[str, str]:
    look = "bar {}" if len(curves) == 1 else "{} line"
    return {curve.name: look.format(curve.look) for curve in curves}
