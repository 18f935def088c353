"""Trackers: the rows of ``metrics.jsonl`` as other tools read them, written beside it while a run
goes, into files only. To add one: a class here and a line in TRACKERS.

A row becomes numbers by tag: ``training/loss``, ``validation/crps``, ``time/forward_time_s``.
"""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hpc_bnn.config import SettingsError

VALIDATION, SECONDS = "validation_", "_time_s"


class Tracker(Protocol):
    """Takes the rows of one run, on world rank 0."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take up a row of ``metrics.jsonl``."""

    def flush(self) -> None:
        """Bring what was taken up to the disk."""

    def close(self) -> None:
        """Write what is left."""


class TensorBoard:
    """Event files of TensorBoard in the folder of a run.

    Parameters
    ----------
    first_step
        What an earlier job wrote from this step on is hidden: the run has gone back to it.
    settings
        Of the run, as text.
    """

    package = "tensorboard"

    def __init__(self, folder: Path, *, first_step: int, settings: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)
        if not first_step:
            text = "".join(f"    {line}\n" for line in settings.splitlines())
            self._writer.add_text("settings", text)

    def write(self, row: Mapping[str, Any], *, at_s: float | None = None) -> None:
        """Take up a row; ``at_s``: when it was made, seconds since 1970; now if left out."""
        for tag, value in scalars(row):
            self._writer.add_scalar(tag, value, row["step"], walltime=at_s)

    def flush(self) -> None:
        """Bring what was taken up to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


TRACKERS: dict[str, type[TensorBoard]] = {"tensorboard": TensorBoard}


def require_trackers(names: Sequence[str]) -> None:
    """Raise SettingsError unless the packages of all trackers are there."""
    problems = []
    for name in names:
        if name not in TRACKERS:
            known = ", ".join(TRACKERS)
            problems.append(f"train.track: {name!r}: expected some of {known}")
        elif importlib.util.find_spec(TRACKERS[name].package) is None:
            problems.append(f"train.track: {name}: {missing_package(name)}")
    if problems:
        raise SettingsError(problems)


def missing_package(name: str) -> str:
    """Say how the package of a tracker is installed."""
    return f"is not installed: pip install 'hpc_bnn[{name}]' brings it"


def start_trackers(
    names: Sequence[str], folder: Path, *, first_step: int, settings: str
) -> list[Tracker]:
    """Open the trackers of a run, which goes on at ``first_step``."""
    return [TRACKERS[name](folder, first_step=first_step, settings=settings) for name in names]


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a row by tag, all but its step."""
    for key, value in row.items():
        if key == "step" or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            continue
        if key.startswith(VALIDATION):
            yield f"validation/{key.removeprefix(VALIDATION)}", float(value)
        elif key.endswith(SECONDS):
            yield f"time/{key}", float(value)
        elif key != "epoch" or "loss" in row:  # a validation has the epoch of its step
            yield f"training/{key}", float(value)
