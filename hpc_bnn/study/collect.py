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
from hpc_bnn.study.agreement import Mixture, mixtures
from hpc_bnn.study.outcomes import Outcome, parameters, read_outcomes
from hpc_bnn.study.plan_file import Plan
from hpc_bnn.study.study_file import ENOUGH_REPEATS, KINDS

PHASES = ("data", "draw", "forward", "backward", "communication", "optimizer", "other")
MODES = ("local", "sample", "data", "hybrid")
# Interquartile range over median from which a point counts as noisy.
NOISY = 0.05
COLUMNS = (
    "kind", "mode", "nodes", "ranks", "sample_ranks", "data_ranks", "samples", "batch_size",
    "repeats", "timed_steps", "step_time_s", "step_time_min_s", "step_time_q1_s",
    "step_time_q3_s", "step_time_max_s", "spread_of_repeats", "examples_per_s",
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
        told = "\n".join(f"{plan.folder}: {mixture.told()}" for mixture in mixed)
        raise ValueError(
            f"{told}\nrun the points that differ again (delete their folders in "
            f"{plan.folder / 'points'}), or mark them with --allow-mixed"
        )
    rows = _rows(plan, outcomes, mixed)
    absent = tuple(outcome for outcome in outcomes if outcome.state != "finished")
    return Collection(tuple(rows), absent, tuple(mixed))


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the table; what is unknown is empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({key: _shown(row.get(key)) for key in COLUMNS} for row in rows)
    write_whole(path, text.getvalue().encode())


def read_csv(path: Path) -> list[Row]:
    """Read the table: numbers as numbers, what is empty as None.

    Raises
    ------
    FileNotFoundError
        If it was not collected yet.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there; run hpc-bnn scaling collect {path.parent}")
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def told(collection: Collection) -> list[str]:
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
    for outcome in collection.absent:
        lines.append(f"{outcome.state}: {outcome.point.name}: {outcome.why}")
    lines += [mixture.told() for mixture in collection.mixed]
    return lines


def is_fixed(kind: str) -> bool:
    """Tell whether the whole problem stays the same: strong scaling."""
    return kind.startswith("fixed_")


def _rows(plan: Plan, outcomes: Sequence[Outcome], mixed: Sequence[Mixture]) -> list[Row]:
    groups: dict[tuple[str, str, int], list[Outcome]] = {}
    for outcome in outcomes:
        for kind, mode in outcome.point.series:
            groups.setdefault((kind, mode, outcome.point.ranks), []).append(outcome)
    order = sorted(groups, key=lambda g: (KINDS.index(g[0]), MODES.index(g[1]), g[2]))
    number = parameters(plan, [o for o in outcomes if o.state == "finished"])
    strange = {mixture.what: set(mixture.others) for mixture in mixed}
    table: dict[tuple[str, str, int], Row] = {}
    for key in order:
        done = [outcome for outcome in groups[key] if outcome.state == "finished"]
        if done:
            table[key] = {**_measured(key, done, strange), "parameters": number}
    for key, row in table.items():
        kind, mode, _ = key
        base = min((g for g in groups if g[0] == kind and g[1] in (mode, "local")), key=_ranks)
        row |= _compared(row, table.get(base), base)
        if table.get(base) is None:
            row["flags"] = " ".join([*str(row["flags"]).split(), "no_baseline"])
    return list(table.values())


def _measured(
    key: tuple[str, str, int], done: Sequence[Outcome], strange: dict[str, set[str]]
) -> Row:
    point = done[0].point
    times = sorted(time for outcome in done for time in outcome.step_times_s)
    low, middle, high = quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    medians = [median(outcome.step_times_s) for outcome in done]
    phases = [outcome.summary.get("phases_s") or {} for outcome in done]
    flags = {flag for outcome in done for flag in outcome.flags}
    flags |= {"few_repeats"} if len(done) < ENOUGH_REPEATS else set()
    flags |= {"noisy"} if (high - low) / middle > NOISY else set()
    flags |= {
        f"mixed_{what}"
        for what, names in strange.items()
        if any(outcome.point.name in names for outcome in done)
    }
    return {
        "kind": key[0],
        "mode": key[1],
        "nodes": point.nodes,
        "ranks": point.ranks,
        "sample_ranks": point.sample_ranks,
        "data_ranks": point.data_ranks,
        "samples": point.samples,
        "batch_size": point.batch_size,
        "repeats": len(done),
        "timed_steps": len(times),
        "step_time_s": middle,
        "step_time_min_s": times[0],
        "step_time_q1_s": low,
        "step_time_q3_s": high,
        "step_time_max_s": times[-1],
        "spread_of_repeats": (max(medians) - min(medians)) / middle if len(done) > 1 else None,
        "repeat_medians_s": medians,
        "examples_per_s": point.batch_size / middle,
        "sample_examples_per_s": point.samples * point.batch_size / middle,
        **{f"{phase}_s": _median([p.get(phase) for p in phases]) for phase in PHASES},
        "communication_share": _median([o.summary.get("communication_share") for o in done]),
        "peak_memory_bytes": max((o.summary.get("peak_memory_bytes") or 0) for o in done) or None,
        "energy_j": _median([outcome.summary.get("energy_j") for outcome in done]),
        "final_loss": _median([outcome.summary.get("final_loss") for outcome in done]),
        "device": done[0].summary.get("device"),
        "hosts": " ".join(sorted({str(h) for o in done for h in o.summary.get("hosts") or ()})),
        "cores": done[0].cores,
        "threads": done[0].threads,
        "flags": " ".join(sorted(flags)),
        "runs": " ".join(outcome.point.name for outcome in done),
    }


def _compared(row: Row, base: Row | None, key: tuple[str, str, int]) -> Row:
    """Return speed-up and efficiency, its range from the medians of single repeats."""
    fixed = is_fixed(row["kind"])
    found: Row = {
        "baseline": f"{key[1]} {key[2]}",
        "definition": "n1*T1/(n*Tn)" if fixed else "T1/Tn",
        **dict.fromkeys(("speedup", "efficiency", "efficiency_low", "efficiency_high")),
    }
    if base is None:
        return found
    growth = row["ranks"] / base["ranks"]
    per_rank = growth if fixed else 1.0
    speed = base["step_time_s"] / row["step_time_s"]
    first, own = base["repeat_medians_s"], row["repeat_medians_s"]
    return found | {
        "speedup": speed if fixed else growth * speed,
        "efficiency": speed / per_rank,
        "efficiency_low": min(first) / max(own) / per_rank if len(own) > 1 else None,
        "efficiency_high": max(first) / min(own) / per_rank if len(own) > 1 else None,
    }


def _ranks(group: tuple[str, str, int]) -> int:
    return group[2]


def _median(values: Sequence[Any]) -> float | None:
    known = [value for value in values if isinstance(value, int | float)]
    return median(known) if known else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _shown(value: Any) -> Any:
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
