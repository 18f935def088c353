"""Results of a benchmark: a table and its targets on the terminal, files in ``build/bench``."""

import csv
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench"

Row = dict[str, str | int | float]


@dataclass(frozen=True)
class Target:
    """A bound that a measured number should keep: at most ``most``, at least ``least``."""

    name: str
    value: float
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool:
        return (self.most is None or self.value <= self.most) and (
            self.least is None or self.value >= self.least
        )

    def line(self) -> str:
        bound = f"<= {self.most:g}" if self.most is not None else f">= {self.least:g}"
        return f"{'met   ' if self.met else 'MISSED'}  {self.name}: {self.value:.3g} ({bound})"


def publish(
    benchmark: str, rows: Sequence[Row], targets: Sequence[Target] = (), folder: Path = FOLDER
) -> None:
    """Print rows and targets, and write them to ``FOLDER/BENCHMARK.{json,csv}``."""
    print(f"\n{benchmark}")
    print(table(rows))
    for target in targets:
        print(target.line())
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": machine(),
        "rows": list(rows),
        "targets": [asdict(target) | {"met": target.met} for target in targets],
    }
    (folder / f"{benchmark}.json").write_text(json.dumps(document, indent=1) + "\n")
    with (folder / f"{benchmark}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=_columns(rows))
        writer.writeheader()
        writer.writerows(rows)


def table(rows: Sequence[Row]) -> str:
    """Return rows as aligned text, numbers with four digits."""
    columns = _columns(rows)
    cells = [columns] + [[_text(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def machine() -> Row:
    """Return what the numbers depend on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "load_average_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _text(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
