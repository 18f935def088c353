"""``scaling.csv``: one row for each kind, mode and number of ranks, all repeats together.

    fixed kinds      speed-up = T1 / Tn            efficiency = n1 T1 / (n Tn)
    growing kinds    speed-up = (n / n1) T1 / Tn   efficiency = T1 / Tn

T is the median time of a step over all timed steps of all repeats; n1 and T1 belong to the smallest
point of the same kind, in the same mode or local. Where that one is missing, both stay empty: they
are never relative to something else.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from hpc_bnn.files import write_whole
from hpc_bnn.study.outcomes import Mixture, Outcome, mixtures, parameters, read_outcomes
from hpc_bnn.study.plan_file import Plan
from hpc_bnn.study.study_file import ENOUGH_REPEATS, KINDS, MODES

PHASES = ("data", "draw", "forward", "backward", "communication", "optimizer", "other")
PLACES: dict[str, int] = {name: place for place, name in enumerate((*KINDS, *MODES))}
OF_POINT = ("nodes", "ranks", "sample_ranks", "data_ranks", "samples", "batch_size")
# Interquartile range over median from which a point counts as noisy.
NOISY = 0.05
COLUMNS = (
    "kind", "mode", *OF_POINT, "repeats", "timed_steps", "step_time_s", "step_time_min_s",
    "step_time_q1_s", "step_time_q3_s", "step_time_max_s", "spread_of_repeats", "examples_per_s",
    "sample_examples_per_s", "baseline", "definition", "speedup", "efficiency", "efficiency_low",
    "efficiency_high", *(f"{phase}_s" for phase in PHASES), "communication_share",
    "peak_memory_bytes", "energy_j", "final_loss", "parameters", "device", "hosts", "cores",
    "threads", "flags", "runs",
)  # fmt: skip

Row = dict[str, Any]


@dataclass(frozen=True)
class Collection:
    """The table of a study and what is wrong with it."""

    rows: tuple[Row, ...]
    absent: tuple[Outcome, ...]
    mixed: tuple[Mixture, ...]


def collect(plan: Plan, *, allow_mixed: bool = False) -> Collection:
    """Read all points and make the table.

    Raises
    ------
    ValueError
        If points are not comparable, unless ``allow_mixed``; the message names them.
    """
    outcomes = read_outcomes(plan)
    mixed = mixtures(outcomes)
    if mixed and not allow_mixed:
        lines = [f"{plan.folder}: {mixture}" for mixture in mixed]
        advice = (
            f"run the points that differ again (delete their folders in {plan.folder / 'points'}), "
            "or mark them with --allow-mixed"
        )
        raise ValueError("\n".join([*lines, advice]))
    absent = tuple(outcome for outcome in outcomes if outcome.state != "finished")
    return Collection(tuple(_rows(plan, outcomes, mixed)), absent, tuple(mixed))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the table; what is unknown is empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({key: _csv_text(row.get(key)) for key in COLUMNS} for row in rows)
    write_whole(path, text.getvalue().encode())


def read_csv(path: Path) -> list[Row]:
    """Read the table: numbers as numbers, what is empty as None.

    Raises
    ------
    FileNotFoundError
        If it was not collected yet.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run hpc-bnn scaling collect {path.parent}")
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def format_collection(collection: Collection) -> list[str]:
    """Return the table as lines, with every remark."""
    head = f"{'kind':21}{'mode':8}{'ranks':>5} {'S x D':>8} {'K':>5} {'B':>5} {'step [ms]':>10} "
    lines = [head + f"{'speed-up':>8} {'efficiency':>10}  flags"]
    for row in collection.rows:
        grid = f"{row['sample_ranks']} x {row['data_ranks']}"
        lines.append(
            f"{row['kind']:21}{row['mode']:8}{row['ranks']:5d} {grid:>8} {row['samples']:5d} "
            f"{row['batch_size']:5d} {row['step_time_s'] * 1e3:10.2f} "
            f"{_number(row['speedup']):>8} {_number(row['efficiency']):>10}  {row['flags']}"
        )
    absent = [f"{o.state}: {o.point.name}: {o.why}" for o in collection.absent]
    return [*lines, *absent, *map(str, collection.mixed)]


def is_fixed(kind: str) -> bool:
    """Tell whether the whole problem stays the same: strong scaling."""
    return kind.startswith("fixed_")


def _rows(plan: Plan, outcomes: Sequence[Outcome], mixed: Sequence[Mixture]) -> list[Row]:
    groups: dict[tuple[str, str, int], list[Outcome]] = {}
    for outcome in outcomes:
        for kind, mode in outcome.point.series:
            groups.setdefault((kind, mode, outcome.point.ranks), []).append(outcome)
    order = sorted(groups, key=lambda g: (PLACES[g[0]], PLACES[g[1]], g[2]))
    finished = {key: [o for o in groups[key] if o.state == "finished"] for key in order}
    shared = {"parameters": parameters(plan, [o for o in outcomes if o.state == "finished"])}
    table = {key: _measured(key, runs, mixed) | shared for key, runs in finished.items() if runs}
    for (kind, mode, _), row in table.items():
        first = min(
            (g for g in groups if g[0] == kind and g[1] in (mode, "local")), key=lambda g: g[2]
        )
        row |= _compared(row, table.get(first)) | {"baseline": f"{first[1]} {first[2]}"}
        if first not in table:
            row["flags"] = " ".join([*str(row["flags"]).split(), "no_baseline"])
    return list(table.values())


def _measured(key: tuple[str, str, int], runs: Sequence[Outcome], mixed: Sequence[Mixture]) -> Row:
    point, names = runs[0].point, {run.point.name for run in runs}
    times = sorted(time for run in runs for time in run.step_times_s)
    low, middle, high = (
        quantiles(times, n=4, method="inclusive") if len(times) > 1 else (times[0],) * 3
    )
    medians = [median(run.step_times_s) for run in runs]
    summaries = [run.summary for run in runs]
    flags = {flag for run in runs for flag in run.flags}
    flags |= {f"mixed_{mixture.what}" for mixture in mixed if names & set(mixture.others)}
    flags |= {"few_repeats"} if len(runs) < ENOUGH_REPEATS else set()
    flags |= {"noisy"} if (high - low) / middle > NOISY else set()
    return {
        "kind": key[0],
        "mode": key[1],
        **{name: getattr(point, name) for name in OF_POINT},
        "repeats": len(runs),
        "timed_steps": len(times),
        "step_time_s": middle,
        "step_time_min_s": times[0],
        "step_time_q1_s": low,
        "step_time_q3_s": high,
        "step_time_max_s": times[-1],
        "spread_of_repeats": (max(medians) - min(medians)) / middle if len(runs) > 1 else None,
        "repeat_medians_s": medians,
        "examples_per_s": point.batch_size / middle,
        "sample_examples_per_s": point.samples * point.batch_size / middle,
        **{
            f"{phase}_s": _median([(s.get("phases_s") or {}).get(phase) for s in summaries])
            for phase in PHASES
        },
        **{
            name: _median([s.get(name) for s in summaries])
            for name in ("communication_share", "energy_j", "final_loss")
        },
        "peak_memory_bytes": max((s.get("peak_memory_bytes") or 0) for s in summaries) or None,
        "device": summaries[0].get("device"),
        "hosts": " ".join(sorted({str(host) for s in summaries for host in s.get("hosts") or ()})),
        "cores": runs[0].cores,
        "threads": runs[0].threads,
        "flags": " ".join(sorted(flags)),
        "runs": " ".join(run.point.name for run in runs),
    }


def _compared(row: Row, base: Row | None) -> Row:
    """Return speed-up and efficiency, its range from the medians of single repeats."""
    fixed = is_fixed(row["kind"])
    definition = {"definition": "n1*T1/(n*Tn)" if fixed else "T1/Tn"}
    if base is None:
        return definition | dict.fromkeys(
            ("speedup", "efficiency", "efficiency_low", "efficiency_high")
        )
    growth = row["ranks"] / base["ranks"]
    per_rank = growth if fixed else 1.0
    speed = base["step_time_s"] / row["step_time_s"]
    first, times = base["repeat_medians_s"], row["repeat_medians_s"]
    return definition | {
        "speedup": speed if fixed else growth * speed,
        "efficiency": speed / per_rank,
        "efficiency_low": min(first) / max(times) / per_rank if len(times) > 1 else None,
        "efficiency_high": max(first) / min(times) / per_rank if len(times) > 1 else None,
    }


def _median(values: Sequence[Any]) -> float | None:
    known = [value for value in values if isinstance(value, int | float)]
    return median(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _csv_text(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else value


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None
