"""The sections of a page about a scaling study: its table, speed-up, efficiency, memory, phases."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hpc_bnn.config import dump_settings
from hpc_bnn.study.collect import Row, collect
from hpc_bnn.study.outcomes import Mixture, read_outcomes
from hpc_bnn.study.plan_file import Plan
from hpc_bnn.study.report.blocks import (
    DASH,
    Block,
    Cell,
    Charts,
    Details,
    Notes,
    Picture,
    Section,
    Table,
    number,
    number_cell,
    number_text,
)
from hpc_bnn.study.report.chart import Curve, colour, line_chart
from hpc_bnn.study.report.cost import PHASES, phase_charts
from hpc_bnn.study.report.folders import PNG, PNG_END
from hpc_bnn.study.report.pictures import uri

TITLES = {
    "fixed_samples": "K and B stay (strong)",
    "proportional_samples": "K grows with the ranks (weak)",
    "fixed_batch": "K and B stay, data axis (strong)",
    "growing_batch": "B grows with the ranks (weak)",
}
MODES = ("sample", "data", "hybrid", "local")
MIB = 2**20
SHOWN = 4  # points that a mixture names


def study_sections(plan: Plan) -> tuple[list[Section], tuple[str, ...]]:
    """Return the sections of a page about a study, and what is wrong with it.

    Points that do not compare are marked and named, missing ones are named.
    """
    collection = collect(plan, allow_mixed=True)
    problems = [f"{point.point.name}: {point.state}: {point.why}" for point in collection.absent]
    problems += [_mixed(mixture, len(plan.points)) for mixture in collection.mixed]
    rows = collection.rows
    finished = len(plan.points) - len(collection.absent)
    overview: list[Block] = [_overview(plan, finished, rows)]
    if problems:
        overview.append(Notes(problems))
    sections = [Section("overview", "Overview", overview)]
    if rows:
        sections += [
            Section("table", "Points", _tables(rows)),
            Section("speedup", "Speed-up and efficiency", _curves(rows)),
            Section("memory", "Memory", _memory(rows)),
            Section("phases", "Phases of a step", _phases(rows)),
        ]
    sections.append(Section("projection", "Projection", _projection(plan, problems)))
    sections.append(Section("provenance", "Provenance", _provenance(plan)))
    return sections, tuple(problems)


def _overview(plan: Plan, finished: int, rows: Sequence[Row]) -> Table:
    study = plan.study
    facts = {
        "settings": study.config,
        "overrides": " ".join(study.overrides),
        "what grows": "; ".join(TITLES.get(kind, kind) for kind in study.kinds),
        "ranks" if study.ranks else "nodes": ", ".join(map(str, study.sizes)),
        "ranks of a node": number_text(study.ranks_per_node),
        "repeats of a point": str(study.repeats),
        "steps of a run": f"{study.steps}, the first {study.warmup_steps} not timed",
        "runs finished": f"{finished} of {len(plan.points)}",
        "trained parameters": number_text(rows[0].get("parameters")) if rows else "-",
        "folder": str(plan.folder),
    }
    return Table(
        ("what", "value"),
        [[Cell(k), Cell(v)] for k, v in facts.items() if v not in ("", "-")],
    )


def _mixed(mixture: Mixture, points: int) -> str:
    """Name the points that differ; what they say stands among the provenance."""
    names = list(mixture.others)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"mixed {mixture.what}: {len(names)} of {points} points are not like the others and do not "
        f"compare with them: {', '.join(names[:SHOWN])}{more}"
    )


def _tables(rows: Sequence[Row]) -> list[Block]:
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return [_table([row for row in rows if row["kind"] == kind], kind) for kind in kinds]


def _table(rows: Sequence[Row], kind: str) -> Table:
    head = (
        *("mode", "ranks", "S x D", "K", "B", "step, median [ms]", "quartiles [ms]"),
        *("examples x samples [1/s]", "speed-up", "efficiency", "flags"),
    )
    body = []
    for row in rows:
        low, high = (1e3 * float(row[key]) for key in ("step_time_q1_s", "step_time_q3_s"))
        body.append(
            [
                Cell(row["mode"]),
                number_cell(row["ranks"]),
                Cell(f"{row['sample_ranks']} x {row['data_ranks']}", is_number=True),
                number_cell(row["samples"]),
                number_cell(row["batch_size"]),
                Cell(f"{1e3 * row['step_time_s']:.2f}", is_number=True),
                Cell(f"{low:.2f} to {high:.2f}", is_number=True),
                number_cell(row["sample_examples_per_s"]),
                _fixed(row["speedup"]),
                _fixed(row["efficiency"]),
                Cell(str(row["flags"] or "")),
            ]
        )
    return Table(head, body, f"{kind}: {TITLES.get(kind, kind)}")


def _curves(rows: Sequence[Row]) -> list[Block]:
    charts, legend = [], dict[str, str]()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        for key, label in (("speedup", "speed-up"), ("efficiency", "efficiency")):
            curves = [c for c in _by_mode(rows, kind, key) if c.points()]
            if not curves:
                continue
            legend |= {curve.name: curve.look for curve in curves}
            ranks = sorted({x for curve in curves for x in curve.x})
            ideal = [x / ranks[0] if key == "speedup" else 1.0 for x in ranks]
            drawn = [Curve("ideal", "grey dashed", ranks, ideal), *curves]
            drawn += [Curve(c.name, _dots(c), c.x, c.y) for c in curves]
            title = f"{label}: {TITLES.get(kind, kind)}"
            charts.append(line_chart(title, drawn, x_label="ranks", has_zero=True, x_ticks=ranks))
    legend |= {"ideal": "grey dashed"}
    return [Charts(charts, legend)] if charts else []


def _memory(rows: Sequence[Row]) -> list[Block]:
    charts, legend = [], dict[str, str]()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        curves = [c for c in _by_mode(rows, kind, "peak_memory_bytes", 1 / MIB) if c.points()]
        if curves:
            legend |= {curve.name: curve.look for curve in curves}
            ranks = sorted({x for curve in curves for x in curve.x})
            drawn = [*curves, *(Curve(c.name, _dots(c), c.x, c.y) for c in curves)]
            title = f"peak memory [MiB]: {TITLES.get(kind, kind)}"
            charts.append(line_chart(title, drawn, x_label="ranks", has_zero=True, x_ticks=ranks))
    return [Charts(charts, legend)] if charts else []


def _by_mode(rows: Sequence[Row], kind: str, key: str, scale: float = 1.0) -> list[Curve]:
    """Return a curve over ranks for each mode, which begins at the single rank of all modes."""
    of_kind = sorted((r for r in rows if r["kind"] == kind), key=lambda r: int(r["ranks"]))
    local = [row for row in of_kind if row["mode"] == "local"]
    modes = [m for m in MODES if m != "local" and any(r["mode"] == m for r in of_kind)]
    curves = []
    for mode in modes or ["local"]:
        held = [*(local if mode != "local" else ()), *(r for r in of_kind if r["mode"] == mode)]
        values = [number(row[key]) for row in held]
        scaled = [None if value is None else scale * value for value in values]
        look = f"{colour(MODES.index(mode))} line"
        curves.append(Curve(mode, look, [float(row["ranks"]) for row in held], scaled))
    return curves


def _dots(curve: Curve) -> str:
    return curve.look.replace("line", "points")


def _phases(rows: Sequence[Row]) -> list[Block]:
    charts, legend = list[Markup](), dict[str, str]()
    for kind in dict.fromkeys(row["kind"] for row in rows):
        summaries: dict[str, Mapping[str, Any]] = {
            f"{row['mode']} {row['sample_ranks']} x {row['data_ranks']}": {
                "phases_s": {phase: row.get(f"{phase}_s") for phase in PHASES}
            }
            for row in rows
            if row["kind"] == kind
        }
        title = f"time of a step [ms]: {TITLES.get(kind, kind)}"
        for block in phase_charts(summaries, title=title):
            charts += block.charts
            legend |= block.legend
    return [Charts(charts, legend)] if charts else []


def _projection(plan: Plan, problems: list[str]) -> list[Block]:
    """Return the picture of the projection, where one was made."""
    path = plan.folder / "projection.png"
    if not path.is_file():
        return []
    content = path.read_bytes()
    if content.startswith(PNG) and content.endswith(PNG_END):
        return [
            Picture(uri(content), "Model of the step time, beyond the ranks that were measured")
        ]
    problems.append(f"{path}: is no whole PNG: it is left out")
    return []


def _provenance(plan: Plan) -> list[Block]:
    summaries = [o.summary for o in read_outcomes(plan) if o.state == "finished"]
    facts: dict[str, dict[str, None]] = {}
    for summary in summaries:
        facts.setdefault("device", {})[str(summary.get("device") or DASH)] = None
        hosts = ", ".join(map(str, summary.get("hosts") or ()))
        facts.setdefault("hosts", {})[hosts or DASH] = None
        facts.setdefault("engine", {})[str(summary.get("engine") or DASH)] = None
        for name, version in (summary.get("versions") or {}).items():
            facts.setdefault(f"version: {name}", {})[str(version)] = None
    # A single rank has no engine.
    texts = {name: [v for v in held if v != DASH] for name, held in facts.items()}
    rows = [[Cell(name), Cell("; ".join(held))] for name, held in texts.items() if held]
    blocks: list[Block] = [Table(("what", "value"), rows)] if rows else []
    return [*blocks, Details("Settings of the smallest point", dump_settings(plan.settings()))]


def _fixed(value: object) -> Cell:
    held = number(value)
    return Cell("-" if held is None else f"{held:.3f}", is_number=True)
