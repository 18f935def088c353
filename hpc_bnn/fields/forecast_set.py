"""Forecasts from many starts on disk: a folder with a file of each start, or one file of all.

    FOLDER/2020-01-31T1200.nc      what ``forecast --start`` writes of that start
    FILE.nc                        with a dimension for the starts

Killed at any moment, the same command goes on: finished starts are kept, others made again. A file
that is there is of the same forecast, settings and parameters included, or it is refused. What one
process does says so; the others wait for it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import netCDF4

from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_file import (
    create_forecast,
    finish,
    partial_path,
    require_writable,
    written_starts,
)
from hpc_bnn.fields.forecast_plan import ForecastPlan, OtherForecastError
from hpc_bnn.fields.ingest.netcdf import SUFFIXES, library_lock

FOREIGN = (".zarr", ".grib", ".grib1", ".grib2", ".grb", ".grb2", ".h5", ".hdf5")
NAME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d)(\d\d)(\d\d)?\.nc(\.partial)?")
PICTURE = re.compile(r"\d{4}-\d\d-\d\dT\d{4}(\d\d)?-.+\.png")  # of the forecast from one start


@dataclass(frozen=True, eq=False)
class ForecastSet:
    """The forecasts of a plan at a path: a folder, or a file, whose name has a netCDF suffix.

    sources: files that are read, never to be replaced.
    """

    path: Path
    plan: ForecastPlan
    sources: tuple[str, ...] = ()

    @cached_property
    def is_folder(self) -> bool:
        """Whether each start has a file of its own."""
        return is_folder(self.path)

    @property
    def lock(self) -> Path:
        """The file that a job holds while it writes."""
        return lock_path(self.path)

    def file(self, start: int) -> tuple[Path, ForecastPlan, int]:
        """Return the file of a start, its plan and the place of the start in it."""
        if not self.is_folder:
            return self.path, self.plan, start
        start_s = self.plan.forecast.starts_s[start]
        return self.path / file_name(start_s), self.plan.of_start(start_s), 0

    def prepare(self) -> list[int]:
        """Return the starts, as indices, that are not finished; for one process.

        Raises
        ------
        OtherForecastError
            If a file there, finished or not, is of another forecast.
        OSError
            If something else is in the way, or there is less space than what is missing takes.
        """
        pending, create = self._in_folder() if self.is_folder else self._in_file()
        one = self.plan.end // len(self.plan.forecast.starts_s)
        need, free = one * len(pending), shutil.disk_usage(self.path.parent).free
        if need > free:  # nothing is left of what cannot be
            raise OSError(
                f"{self.path}: {len(pending)} forecasts take {need / 1e9:.3g} GB, {free / 1e9:.3g} "
                "GB are free there: free space, or give another path"
            )
        create()
        return pending

    def _in_file(self) -> tuple[list[int], Callable[[], None]]:
        """Return the starts that are not finished, and what makes room for them."""
        plan, partial = self.plan, partial_path(self.path)
        require_writable(self.path, self.sources)
        if plan.forecast.is_set and self.path.exists():
            _require_whole(self.path, plan)
            return [], _nothing
        _require_one_start(self.path)
        if partial.exists():
            plan.require_in(partial)
            if plan.forecast.is_set:
                done = set(written_starts(self.path, plan))
                left = [at for at in range(len(plan.forecast.starts_s)) if at not in done]
                return left, _nothing
        every = list(range(len(plan.forecast.starts_s)))
        return every, lambda: create_forecast(self.path, plan)

    def _in_folder(self) -> tuple[list[int], Callable[[], None]]:
        """Return the starts that are not finished, and what makes the folder."""
        require_folder(self.path)
        finished = set()
        for path in sorted(self.path.iterdir()) if self.path.exists() else ():
            found = NAME.fullmatch(path.name)
            if found is None:
                continue
            start_s = times.parse(f"{found[1]}:{found[2]}:{found[3] or '00'}", end=False)
            plan = self.plan.of_start(start_s)
            if found[4]:
                plan.require_in(path)
            else:
                _require_whole(path, plan)
                finished.add(start_s)
        left = [at for at, s in enumerate(self.plan.forecast.starts_s) if s not in finished]
        return left, lambda: self.path.mkdir(exist_ok=True)

    def create(self, starts: Iterable[int]) -> None:
        """Create the files of some starts; for one process, no two of the same start."""
        if self.is_folder:
            for path, plan, _ in map(self.file, starts):
                create_forecast(path, plan)

    def finish(self, starts: Iterable[int]) -> None:
        """Give the files of some starts their names; for one process, once all have their fields.

        A file of all starts gets its name by ``finish_file``.
        """
        if self.is_folder:
            for path, plan, _ in map(self.file, starts):
                finish(path, plan)

    def finish_file(self) -> None:
        """Give the file of all starts its name; for one process, at the end."""
        if not self.is_folder and partial_path(self.path).exists():
            require_writable(self.path, self.sources)  # hours may have passed since the first look
            finish(self.path, self.plan)


def _nothing() -> None:
    """Make nothing: it is there."""


def is_folder(path: Path) -> bool:
    """Tell whether an output is a folder with a file of each start."""
    return path.suffix.lower() not in SUFFIXES


def lock_path(path: Path) -> Path:
    """Return the lock of an output, beside it."""
    return path.with_name(f".{path.name}.lock")


def file_name(start_s: int) -> str:
    """Return the name of the file of a start: its time without colons, which some systems lack."""
    return f"{times.text(start_s).replace(':', '')}.nc"


def require_output(path: Path, sources: Sequence[str] = ()) -> None:
    """Raise OSError where something else is in the way of an output."""
    if is_folder(path):
        require_folder(path)
    else:
        require_writable(path, sources)


def require_folder(path: Path) -> None:
    """Raise OSError unless there is nothing at ``path``, or a folder of forecasts; ValueError where
    its name is that of another format.
    """
    if path.suffix.lower() in FOREIGN:
        raise ValueError(
            f"{path}: forecasts are written as netCDF: expected a path that ends in "
            f"{', '.join(SUFFIXES)}, or that of a folder for a file of each start"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: the folder {path.parent} does not exist: make it first, or give another path"
        )
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise FileExistsError(
            f"{path}: is a file: expected a folder for the files of all starts, new or not, or the "
            f"path of one file of netCDF ({', '.join(SUFFIXES)})"
        )
    others = [
        each.name
        for each in sorted(path.iterdir())
        if not each.name.startswith(".")
        and not NAME.fullmatch(each.name)
        and not PICTURE.fullmatch(each.name)
    ]
    if others:
        raise FileExistsError(
            f"-o {path}: is a folder that holds {', '.join(others[:3])}, no forecasts: give the "
            f"path of a new folder, such as {path / 'forecasts'}, or of a file, such as "
            f"{path / 'forecast.nc'}"
        )


def _require_one_start(path: Path) -> None:
    """Raise OtherForecastError where a finished file holds more: one start is no reason to lose
    them.
    """
    if not path.exists():
        return
    with library_lock(), netCDF4.Dataset(path) as there:
        time = there.dimensions.get("time")
        starts = 1 if time is None else len(time)
    if starts > 1:
        raise OtherForecastError(
            f"{path}: holds forecasts from {starts} starts, which one start would replace: give "
            "another output, or remove it"
        )


def _require_whole(path: Path, plan: ForecastPlan) -> None:
    plan.require_in(path)
    if path.stat().st_size != plan.end:
        raise OtherForecastError(
            f"{path}: has {path.stat().st_size} bytes, {plan.end} expected: it is damaged; remove "
            "it and run the same command again"
        )
