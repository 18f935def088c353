"""The statistics that normalisation needs, and their netCDF file of one dimension, `channel`.

Letters: C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.files import MARKS, STATISTICS, is_statistics
from hpc_bnn.fields.ingest.netcdf import library_lock
from hpc_bnn.files import refuse_foreign, whole_file

ARRAYS = {
    "mean": "mean over times and grid points",
    "std": "standard deviation",
    "minimum": "smallest value",
    "maximum": "largest value",
    "count": "number of values",
    "tendency_mean": "mean change over step_hours",
    "tendency_std": "standard deviation of the change over step_hours",
}
NORMALISE = ("mean", "std", "tendency_mean", "tendency_std")
TEXTS = ("start", "end", "fingerprint")


@dataclass(frozen=True, eq=False)
class Statistics:
    """What normalisation needs, (C,) float64 each, and where it comes from.

    start, end: range of times that was used, ISO 8601.
    fingerprint: of the pack.
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    count: NDArray[np.float64]
    tendency_mean: NDArray[np.float64]
    tendency_std: NDArray[np.float64]
    step_hours: int
    start: str
    end: str
    fingerprint: str

    def select(self, channels: Sequence[str], units: Sequence[str], where: str) -> Statistics:
        """Return the statistics of some channels in their order.

        Raises
        ------
        ValueError
            If one is not there or in other units.
        """
        positions = []
        for name, unit in zip(channels, units, strict=True):
            if name not in self.channels:
                raise ValueError(
                    f"{where}: no statistics of '{name}'; has {', '.join(self.channels)}: make "
                    "them again with this channel"
                )
            at = self.channels.index(name)
            if self.units[at] != unit:
                raise ValueError(
                    f"{where}: '{name}' is in '{self.units[at]}', the data in '{unit}': make the "
                    "statistics again"
                )
            positions.append(at)
        arrays: dict[str, Any] = {name: getattr(self, name)[positions] for name in ARRAYS}
        return replace(self, channels=tuple(channels), units=tuple(units), **arrays)


def require_writable(path: Path, sources: Iterable[str] = ()) -> None:
    """Make the folder of a file of statistics, and refuse to replace anything else by it.

    Raises
    ------
    OSError
        As `refuse_foreign`, or if there can be no such folder.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"{path}: its folder cannot be made: {error.strerror}") from error
    refuse_foreign(path, "file of statistics", is_statistics, sources=sources)


def write_statistics(
    path: str | Path, statistics: Statistics, *, sources: Iterable[str] = ()
) -> None:
    """Write a file in one go: it is there complete or not at all.

    sources: files that were read, which it never replaces.

    Raises
    ------
    OSError
        If something else than statistics is there.
    """
    path = Path(path)
    require_writable(path, sources)
    check = partial(require_writable, path, sources)  # hours may have passed since the first look
    with whole_file(path, rivals=True, check=check) as file:
        _write(file.name, statistics)


def _write(path: str, statistics: Statistics) -> None:
    with library_lock(), netCDF4.Dataset(path, "w") as dataset:
        dataset.title = MARKS[STATISTICS][1]
        dataset.Conventions = "CF-1.8"
        dataset.step_hours = np.int32(statistics.step_hours)
        for name in TEXTS:
            dataset.setncattr(name, getattr(statistics, name))
        dataset.createDimension("channel", len(statistics.channels))
        for name, words in (("channel", statistics.channels), ("units_of", statistics.units)):
            dataset.createVariable(name, str, ("channel",))[:] = np.array(words, object)
        for name, long_name in ARRAYS.items():
            variable = dataset.createVariable(name, "f8", ("channel",), fletcher32=True)
            variable.long_name = long_name
            variable[:] = getattr(statistics, name)


def read_statistics(path: str | Path) -> Statistics:
    """Read what `write_statistics` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds something else, or numbers that no data give.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no such file; make it with `hpc-bnn data statistics`, or leave `statistics` "
            "out to compute them from the training range"
        )
    with library_lock():
        try:
            with netCDF4.Dataset(path) as dataset:
                dataset.set_auto_maskandscale(False)
                missing = [
                    n
                    for n in ("channel", "units_of", *ARRAYS, *TEXTS, "step_hours")
                    if n not in dataset.variables and n not in dataset.ncattrs()
                ]
                if missing:
                    raise ValueError(
                        f"{path}: has no {', '.join(missing)}: no file of statistics, or of an "
                        "older version; make it again with `hpc-bnn data statistics`"
                    )
                arrays = {n: np.array(dataset.variables[n][:], np.float64) for n in ARRAYS}
                _require_sane(path, arrays, dataset.variables["channel"][:])
                return Statistics(
                    channels=tuple(map(str, dataset.variables["channel"][:])),
                    units=tuple(map(str, dataset.variables["units_of"][:])),
                    step_hours=int(dataset.step_hours),
                    start=str(dataset.start),
                    end=str(dataset.end),
                    fingerprint=str(dataset.fingerprint),
                    **arrays,
                )
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read as netCDF-4: {error}; make it again with `hpc-bnn data "
                "statistics`"
            ) from error


def _require_sane(
    path: str | Path, arrays: Mapping[str, NDArray[np.float64]], channels: Sequence[str]
) -> None:
    """Refuse what would make every normalised state NaN, or of the other sign."""
    for name in NORMALISE:
        values, is_deviation = arrays[name], name.endswith("std")
        wrong = ~np.isfinite(values) | (values < 0 if is_deviation else False)
        for at in np.flatnonzero(wrong)[:1]:
            raise ValueError(
                f"{path}: '{name}' of '{channels[at]}' is {values[at]:g}: expected a number"
                f"{' of at least 0' if is_deviation else ''}; make the file again with `hpc-bnn "
                "data statistics`"
            )
