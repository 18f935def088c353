"""The scores of the test split: runs beside each other, and beside naive forecasts."""

from collections.abc import Mapping, Sequence
from typing import Any

from hpc_bnn.study.report.blocks import (
    Block,
    Cell,
    Charts,
    Notes,
    Table,
    mapping,
    number,
    number_cell,
    number_text,
    numbers,
    score_title,
)
from hpc_bnn.study.report.chart import Curve, colour, line_chart
from hpc_bnn.study.report.folders import Run
from hpc_bnn.verify.ranking import best
from hpc_bnn.verify.vocabulary import COUNTS, NOT_SHOWN, SCORES, SKILL, score_of

# Of a forecast of fields, in the table and as charts.
OF_FIELDS = ("rmse", "crps", "acc", "spread_skill_ratio", "coverage_90")
DRAWN = ("rmse", "crps", "acc")
NAIVE_LOOKS = ("grey dashed", "grey dotted", "grey line")
MOST_CHANNELS = 6
DAY_H = 24.0

Column = tuple[str, Mapping[str, Any]]


def score_blocks(runs: Sequence[Run]) -> list[Block]:
    """Return tables and charts of the scores of all runs that have some."""
    scored = [run for run in runs if run.evaluation]
    if not scored:
        return []
    fields = [run for run in scored if is_of_fields(run)]
    others = [run for run in scored if not is_of_fields(run)]
    return [
        *unlike(scored),
        *(_of_fields(fields, runs) if fields else ()),
        *(_of_all_points(others, runs) if others else ()),
    ]


def is_of_fields(run: Run) -> bool:
    """Tell whether a run forecasts fields: its scores are lists over lead times."""
    return "lead_hours" in run.evaluation


def unlike(runs: Sequence[Run]) -> list[Notes]:
    """Say in what runs were scored differently, so that their scores do not compare."""
    texts = []
    for key in ("data", "split", "starts", "first_start", "last_start", "lead_hours"):
        held = {run.name: str(run.evaluation.get(key)) for run in runs}
        if len(set(held.values())) > 1:
            values = "; ".join(f"{name}: {value}" for name, value in held.items())
            texts.append(f"The runs were scored on different {key.replace('_', ' ')} ({values}).")
    return [Notes([*texts, "No run is marked as the better one."])] if texts else []


def names_of_channels(runs: Sequence[Run]) -> list[str]:
    """Return the channels that all runs were scored on, in the order of the first."""
    names = list(mapping(runs[0].evaluation.get("scores")))
    return [n for n in names if all(n in mapping(r.evaluation.get("scores")) for r in runs)]


def _of_all_points(scored: Sequence[Run], runs: Sequence[Run]) -> list[Block]:
    """Return the scores that are one number each, of classes or of a series."""
    naive = _naive_columns(scored[0].evaluation)
    columns: list[Column] = [
        *((run.name, mapping(run.evaluation.get("scores"))) for run in scored),
        *_before_recalibration(scored),
        *naive,
    ]
    units = str(scored[0].evaluation.get("units") or "")
    blocks: list[Block] = [_table(columns, len(scored), units, compared=not unlike(scored))]
    blocks += _beaten(scored, naive)
    blocks += _standardised(scored)
    for name in mapping(scored[0].evaluation.get("foreign")):
        foreign = [
            (run.name, mapping(mapping(run.evaluation.get("foreign")).get(name))) for run in scored
        ]
        caption = f"Told from {name.replace('_', ' ')} images, which do not belong to the data"
        blocks.append(
            _table(foreign, len(scored), units, compared=not unlike(scored), caption=caption)
        )
    return [*blocks, *_over_lead_time(scored, runs, units)]


def _before_recalibration(scored: Sequence[Run]) -> list[Column]:
    """Return the scores that recalibrated runs had without it."""
    held = [
        (run.name, mapping(run.evaluation.get("recalibration")).get("before")) for run in scored
    ]
    return [(f"{name}, not recalibrated", mapping(before)) for name, before in held if before]


def _standardised(scored: Sequence[Run]) -> list[Table]:
    """Return scores in standard deviations of the training rows, as the benchmarks of series have
    them, and the skill over each naive forecast.
    """
    columns: list[Column] = [
        (run.name, mapping(run.evaluation.get("standardised"))) for run in scored
    ]
    if not any(values for _, values in columns):
        return []
    naive = _naive_columns(scored[0].evaluation)
    columns += [(name, mapping(values.get("standardised"))) for name, values in naive]
    compared = not unlike(scored)
    caption = "In standard deviations of the training rows"
    tables = [_table(columns, len(scored), "", compared=compared, caption=caption)]
    rows = []
    for name in mapping(scored[0].evaluation.get("skill")):
        for key in ("crps", "rmse", "mse", "mae"):
            skills = [mapping(mapping(run.evaluation.get("skill")).get(name)) for run in scored]
            values = [number(skill.get(key)) for skill in skills]
            if any(value is not None for value in values):
                marks = best(SKILL, values) if compared else [False] * len(values)
                cells = [number_cell(v, is_best=m) for v, m in zip(values, marks, strict=True)]
                rows.append([Cell(name.replace("_", " ")), Cell(score_of(key).label), *cells])
    head = ("skill over", "in", *(run.name for run in scored))
    return [*tables, *([Table(head, rows, "Skill: 1 is perfect, 0 as good")] if rows else [])]


def _naive_columns(evaluation: Mapping[str, Any]) -> list[Column]:
    """Return the forecasts that need no network, by name."""
    return [
        (name.replace("_", " "), mapping(values))
        for name, values in mapping(evaluation.get("naive")).items()
        if mapping(values)
    ]


def _table(
    columns: Sequence[Column], num_runs: int, units: str, *, compared: bool, caption: str = ""
) -> Table:
    """Return a table with a row for each score that a run has; the best run is marked."""
    keys = dict.fromkeys(key for _, values in columns[:num_runs] for key in values)
    rows = []
    for key in keys:
        values = [number(held.get(key)) for _, held in columns]
        if key in COUNTS:
            values = [None if value is None else int(value) for value in values]
        if key in NOT_SHOWN or all(value is None for value in values):
            continue
        score = score_of(key)
        marks = best(score, values[:num_runs]) if compared else [False] * num_runs
        marks += [False] * (len(values) - num_runs)
        cells = [
            number_cell(value, is_best=mark) for value, mark in zip(values, marks, strict=True)
        ]
        rows.append([Cell(score_title(score, units)), *cells])
    head = ("score", *(name for name, _ in columns))
    return Table(head, rows, caption)


def _beaten(scored: Sequence[Run], naive: Sequence[Column]) -> list[Notes]:
    """Name the naive forecasts that are better than a run."""
    texts = []
    for run in scored:
        own = mapping(run.evaluation.get("scores"))
        for key in ("crps", "rmse"):
            for name, values in naive:
                ours, theirs = number(own.get(key)), number(values.get(key))
                if ours is not None and theirs is not None and theirs < ours:
                    texts.append(
                        f"{run.name}: the naive forecast '{name}' has the lower "
                        f"{SCORES[key].label}: {number_text(theirs)} against {number_text(ours)}."
                    )
    return [Notes(texts)] if texts else []


def _over_lead_time(scored: Sequence[Run], runs: Sequence[Run], units: str) -> list[Block]:
    """Draw the scores of each channel of a series over the lead time."""
    first = scored[0].evaluation
    names = list(mapping(first.get("channels")))[:MOST_CHANNELS]
    charts, legend = [], dict[str, str]()
    for name in names:
        for key in ("rmse", "crps"):
            curves = [
                _series_curve(run.name, run.evaluation, name, key, f"{colour(at)} line")
                for at, run in enumerate(runs)
                if run in scored
            ]
            for look, (naive, values) in zip(NAIVE_LOOKS, _naive_columns(first), strict=False):
                hours = {"lead_time_h": first.get("lead_time_h")}
                curves.append(_series_curve(naive, {**values, **hours}, name, key, look))
            curves = [curve for curve in curves if curve.points()]
            if not curves:
                continue
            legend |= {curve.name: curve.look for curve in curves}
            title = f"{name}: {score_title(SCORES[key], units)}"
            charts.append(line_chart(title, curves, x_label="lead time [h]", has_zero=True))
    return [Charts(charts, legend)] if charts else []


def _series_curve(label: str, held: Mapping[str, Any], channel: str, key: str, look: str) -> Curve:
    hours = numbers(held.get("lead_time_h"))
    of_channel = mapping(mapping(held.get("channels")).get(channel))
    values = numbers(mapping(of_channel.get("by_lead_time")).get(key))
    return _curve(label, look, hours, values)


def _curve(label: str, look: str, x: Sequence[float | None], y: Sequence[float | None]) -> Curve:
    pairs = [(at, value) for at, value in zip(x, y, strict=False) if at is not None]
    return Curve(label, look, [at for at, _ in pairs], [value for _, value in pairs])


def _of_fields(scored: Sequence[Run], runs: Sequence[Run]) -> list[Block]:
    """Return the scores of fields at a day and at the last lead time, and charts over all."""
    names = names_of_channels(scored)
    hours = [hour for hour in numbers(scored[0].evaluation.get("lead_hours")) if hour is not None]
    if not names or not hours:
        return []
    day = min(range(len(hours)), key=lambda at: abs(hours[at] - DAY_H))
    tables = [
        _fields_table(scored, names, lead, f"Lead time {hours[lead]:g} h")
        for lead in sorted({day, len(hours) - 1})
    ]
    charts, legend = [], dict[str, str]()
    for name in names[:MOST_CHANNELS]:
        for key in DRAWN:
            curves = [
                _curve(run.name, f"{colour(at)} line", hours, _values(run, name, key))
                for at, run in enumerate(runs)
                if run in scored
            ]
            for look, naive in zip(NAIVE_LOOKS, ("persistence", "climatology"), strict=False):
                values = _values(scored[0], name, key, naive)
                curves.append(_curve(naive, look, hours, values))
            curves = [curve for curve in curves if curve.points()]
            legend |= {curve.name: curve.look for curve in curves}
            title = f"{name}: {score_title(SCORES[key], _unit(scored[0], name))}"
            charts.append(line_chart(title, curves, x_label="lead time [h]", has_zero=key != "acc"))
    return [*tables, Charts(charts, legend)]


def _fields_table(scored: Sequence[Run], names: Sequence[str], lead: int, caption: str) -> Table:
    compared = not unlike(scored)
    rows = []
    for name in names:
        for key in OF_FIELDS:
            values = [_at(_values(run, name, key), lead) for run in scored]
            naive = [
                _at(_values(scored[0], name, key, of), lead)
                for of in ("persistence", "climatology")
            ]
            if all(value is None for value in values):
                continue
            score = SCORES[key]
            marks = best(score, values) if compared else [False] * len(values)
            label = score_title(score, _unit(scored[0], name))
            rows.append(
                [
                    Cell(name),
                    Cell(label),
                    *(number_cell(v, is_best=m) for v, m in zip(values, marks, strict=True)),
                    *map(number_cell, naive),
                ]
            )
    head = ("variable", "score", *(run.name for run in scored), "persistence", "climatology")
    return Table(head, rows, caption)


def _values(run: Run, name: str, key: str, naive: str = "") -> list[float | None]:
    held = mapping(mapping(run.evaluation.get("scores")).get(name))
    return numbers((mapping(held.get(naive)) if naive else held).get(key))


def _unit(run: Run, name: str) -> str:
    return str(mapping(run.evaluation.get("units")).get(name) or "")


def _at(values: Sequence[float | None], place: int) -> float | None:
    return values[place] if place < len(values) else None
