"""What a page is about: the folders that are given, and what their files hold.

A run may be unfinished, without evaluation, or have broken files: that is no error here, but a
sentence of ``problems``, which the page shows.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hpc_bnn.config import Settings
from hpc_bnn.study.report.blocks import mapping, number
from hpc_bnn.train.run.folder import RunFolder

Kind = Literal["run", "study"]
Row = Mapping[str, Any]
PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
EXAMPLES = 5  # of runs that an error names


@dataclass(frozen=True)
class Run:
    """What a run folder holds; what is not there is empty.

    Attributes
    ----------
    name
        Tells it from the other runs of a page.
    settings
        None where ``config.yaml`` cannot be read.
    rows
        Of ``metrics.jsonl``, each with its step.
    pictures
        Content by file name.
    problems
        What is missing or broken, one sentence each.
    """

    name: str
    path: Path
    settings: Settings | None
    rows: tuple[Row, ...]
    summary: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    memory: Mapping[str, Any]
    pictures: Mapping[str, bytes] = field(repr=False)
    problems: tuple[str, ...] = ()

    @property
    def steps(self) -> int:
        """Steps that were made, as far as the files say."""
        done = number(self.summary.get("steps"))
        made = [int(row["step"]) + 1 for row in self.rows if "loss" in row]
        return max([int(done or 0), *made])


def kind_of(folder: Path) -> Kind:
    """Tell what a folder holds.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, or it holds neither a run nor a study.
    """
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "no such folder"
        raise FileNotFoundError(f"{folder}: {what}; expected that of a run or of a scaling study")
    if (folder / "plan.json").is_file():
        return "study"
    if _is_run(folder):
        return "run"
    runs = sorted(path.name for path in folder.iterdir() if path.is_dir() and _is_run(path))
    inside = ""
    if runs:
        more = f" and {len(runs) - EXAMPLES} more" if len(runs) > EXAMPLES else ""
        inside = f"; it holds runs: {', '.join(runs[:EXAMPLES])}{more}: give those"
    raise ValueError(
        f"{folder}: neither a run (config.yaml, metrics.jsonl, summary.json) nor a scaling study "
        f"(plan.json){inside}"
    )


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read the runs of a page; their names are as short as they can be.

    Raises
    ------
    ValueError
        If one is given twice.
    """
    places = [folder.resolve() for folder in folders]
    for at, place in enumerate(places):
        if place in places[:at]:
            raise ValueError(f"{folders[at]}: is given twice; give each run once")
    names = [place.name for place in places]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]


def read_run(path: Path, name: str) -> Run:
    """Read the files of a run as far as they can be read."""
    folder, problems = RunFolder(path), list[str]()

    def attempt(read: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return read()
        except (OSError, ValueError) as error:
            problems.append(" ".join(str(error).split()))
            return otherwise

    settings = attempt(folder.settings, None)
    rows = attempt(lambda: _rows(folder.metrics, problems), ())
    summary = attempt(lambda: _content(folder.summary), {})
    evaluation = attempt(lambda: _content(folder.evaluation), {})
    memory = attempt(lambda: _content(folder.memory), {})
    pictures = {}
    for file in sorted(folder.plots.glob("*.png")):
        content = attempt(file.read_bytes, b"")
        if content.startswith(PNG) and content.endswith(PNG_END):
            pictures[file.name] = content
        else:
            problems.append(f"{file}: is no whole PNG: it is left out")
    run = Run(name, path, settings, rows, summary, evaluation, memory, pictures)
    return replace(run, problems=(*problems, *_absent(run)))


def _absent(run: Run) -> list[str]:
    """Say what the run did not do yet."""
    folder, texts = RunFolder(run.path), []
    total = run.settings.train.steps if run.settings else 0
    if not folder.summary.exists():
        of = f" of {total}" if total else ""
        texts.append(f"{run.name}: is not finished: {run.steps}{of} steps; go on with --resume")
    scored = number(run.evaluation.get("step"))
    if not folder.evaluation.exists():
        texts.append(
            f"{run.name}: has no scores of the test split: hpc-bnn evaluate {run.path} makes them"
        )
    elif scored is not None and scored < run.steps and not _keeps_best(run):
        texts.append(
            f"{run.name}: the scores are those of step {scored:g}, the run has {run.steps}: "
            f"hpc-bnn evaluate {run.path} makes new ones"
        )
    return texts


def _keeps_best(run: Run) -> bool:
    """Tell whether the scores are those of the best checkpoint, wherever it stands."""
    return run.settings is not None and run.settings.train.keep_best


def _is_run(folder: Path) -> bool:
    held = RunFolder(folder)
    files = (held.config, held.metrics, held.summary)
    return any(file.is_file() for file in files) and not (folder / "plan.json").exists()


def _content(path: Path) -> dict[str, Any]:
    """Read a JSON object, {} where there is no file.

    Raises
    ------
    ValueError
        If it is none.
    """
    if not path.is_file():
        return {}
    try:  # UnicodeDecodeError is a ValueError, too
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}): it is left out") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no JSON object: it is left out")
    return mapping(content)


def _rows(path: Path, problems: list[str]) -> tuple[Row, ...]:
    """Read the rows of a metrics file; those that cannot be used are named."""
    if not path.is_file():
        problems.append(f"{path}: no such file: there are no curves")
        return ()
    rows, bad = [], []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for at, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        step = number(row.get("step")) if isinstance(row, dict) else None
        if isinstance(row, dict) and step is not None:
            rows.append({**row, "step": int(step)})
        else:
            bad.append(at)
    if bad == [len(lines)]:
        problems.append(f"{path}: its last line was cut short")
    elif bad:
        problems.append(f"{path}: {len(bad)} lines hold no step, the first is line {bad[0]}")
    return tuple(rows)
