"""Scan settings: train every combination of some values, one run a combination, and compare them.

A posterior has settings that no formula gives: the weight of the KL beside a loss that is no
likelihood, the temperature, the scales of prior and start. They are chosen on the validation split.
The runs follow one another, each on all ranks, in a folder of its own; the same command goes on
where an earlier one ended.
"""

import csv
import io
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from hpc_bnn.config import Settings, SettingsError
from hpc_bnn.config.yaml_text import TrapError, parse
from hpc_bnn.files import refuse_foreign, write_whole
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.verify.ranking import decisive

log = logging.getLogger(__name__)

MOST_POINTS = 1000
DIVERGED = "diverged"


@dataclass(frozen=True)
class Point:
    """One combination of values, by the dotted key of the setting."""

    values: Mapping[str, object]

    @property
    def overrides(self) -> list[str]:
        """The values as ``key=value`` of the command line."""
        return [f"{key}={_text(value)}" for key, value in self.values.items()]

    @property
    def name(self) -> str:
        """The name of its run folder."""
        parts = (f"{key.rpartition('.')[2]}={_text(v)}" for key, v in self.values.items())
        return ",".join(parts).replace("/", "-").replace(" ", "")


def points(tries: Sequence[str]) -> list[Point]:
    """Return all combinations of ``key=value,value,...``, in the order of the last key first.

    Raises
    ------
    SettingsError
        If one is not of this form, or there are more than ``MOST_POINTS``.
    """
    values: dict[str, list[object]] = {}
    problems: list[str] = []
    for text in tries:
        key, equals, listed = text.partition("=")
        try:
            each = parse(f"[{listed}]")
        except (TrapError, yaml.YAMLError) as error:
            problems.append(f"--try {text!r}: {error}")
            continue
        if not equals or not key or not each or key in values:
            again = "; each key once" if key in values else ""
            problems.append(
                f"--try {text!r}: expected key=value,value,... such as "
                f"posterior.kl_weight=0.01,0.1,1{again}"
            )
            continue
        values[key] = each
    count = math.prod(len(each) for each in values.values())
    if count > MOST_POINTS:
        problems.append(f"--try: {count} combinations: at most {MOST_POINTS}")
    if problems:
        raise SettingsError(problems)
    return [Point(dict(zip(values, each, strict=True))) for each in product(*values.values())]


def runs_of(
    tries: Sequence[str], read: Callable[[list[str]], Settings]
) -> list[tuple[Point, Settings]]:
    """Return each combination with its settings, which ``read`` makes of overrides.

    Raises
    ------
    SettingsError
        If a combination cannot be used, or the grid is not the same for all.
    """
    runs = [(point, read(point.overrides)) for point in points(tries)]
    grid = runs[0][1].grid
    if grid.mode == "auto" or any(settings.grid != grid for _, settings in runs):
        raise SettingsError(
            ["grid: all runs of a scan share one grid: set grid.mode or grid.sample_ranks for all"]
        )
    return runs


def scan(
    runs: Sequence[tuple[Point, Settings]], world: World, folder: Path, *, began: float
) -> list[dict[str, Any]]:
    """Collective over the world: train what is not finished and write ``scan.csv``; return its
    rows, the best first.

    A run whose loss is not finite is a row that says so. ``began``: as of ``train``.

    Raises
    ------
    OSError
        If the folder cannot be written, or holds a ``scan.csv`` that no scan wrote.
    Unfinished
        If a signal or ``train.max_time`` ends a run early, which goes on with the same command.
    """
    path = folder / "scan.csv"

    def prepare() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(path, "scan", _is_scan)

    world.all_ranks.on_first(prepare, name="folder of the scan")
    rows: list[dict[str, Any]] = []
    for number, (point, settings) in enumerate(runs, 1):
        if world.is_first:
            log.info("run %d of %d: %s", number, len(runs), " ".join(point.overrides))
        run = RunFolder(folder / point.name)
        try:
            summary = train(settings, world, run, resume=True, began=began)
        except FloatingPointError as error:
            if world.is_first:
                log.warning("%s: %s: %s", run.path, DIVERGED, error)
            rows.append({**point.values, "final_loss": DIVERGED})
        else:
            median = summary["step_time_s"]["median"]
            validation = summary["validation"]
            final_loss = summary["final_loss"]
            rows.append(
                {**point.values, **validation, "final_loss": final_loss, "step_time_s": median}
            )
        world.all_ranks.on_first(lambda: _write(path, rows), name="scan.csv")
    return sorted(rows, key=_rank)


def report(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Return the rows as aligned lines, numbers with four digits, and where they are."""
    columns = _columns(rows)
    cells = [columns, *([_shown(row.get(column, "")) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in cells
    ]
    return [*lines, f"{folder / 'scan.csv'}: by {_decisive(rows)}, the best first"]


def _decisive(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the score by which the rows are in order."""
    return decisive({name for row in rows for name in row}) or "final_loss"


def _rank(row: Mapping[str, Any]) -> float:
    value = row.get(_decisive([row]), math.inf)
    return value if isinstance(value, float) and math.isfinite(value) else math.inf


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _columns(rows))
    writer.writeheader()
    writer.writerows(sorted(rows, key=_rank))
    write_whole(path, text.getvalue().encode())


def _is_scan(path: Path) -> bool:
    return "final_loss" in path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _text(value: object) -> str:
    dumped: str = yaml.safe_dump(value, default_flow_style=True)
    return dumped.removesuffix("\n").removesuffix("\n...")


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else _text(value)
