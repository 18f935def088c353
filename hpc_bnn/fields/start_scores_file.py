"""`evaluation_starts.nc`: the scores of every start time, for significance tests and other tools.

    mse(start, lead_time, variable), crps(...), ...         as `verify.start_scores.COLUMNS`
    brier(start, lead_time, variable, quantile), ...        as `verify.start_scores.EVENT_COLUMNS`

`start` is in seconds since 1970 UTC, `lead_time` in hours, `variable` the names of the channels,
their units in `units_of`, `quantile` the probabilities of the climatological quantiles. The unit of
a score is a power of that of its variable, its attribute `power_of_units`. NaN: not defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import netCDF4
import numpy as np
import torch

from hpc_bnn.fields.forecast_layout import SINCE
from hpc_bnn.fields.ingest.netcdf import library_lock
from hpc_bnn.files import write_whole
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS, StartScores

TITLE = "scores of every start time by hpc-bnn evaluate"
CELL = ("start", "lead_time", "variable")
AXES = {
    "start": {"standard_name": "forecast_reference_time", **SINCE},
    "lead_time": {"standard_name": "forecast_period", "units": "hours"},
    "quantile": {"long_name": "probability of the climatological quantile", "units": "1"},
}


def write_start_scores(
    path: Path, scores: StartScores, *, attributes: Mapping[str, str | int] | None = None
) -> None:
    """Write the file in one go: it is there complete or not at all.

    attributes: of the whole file, beside title, Conventions and members.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    write_whole(path, _content(scores, attributes or {}))


def _content(scores: StartScores, attributes: Mapping[str, str | int]) -> bytes:
    """Make the file in memory: the library ends the process on a full disk."""
    with library_lock():
        dataset = netCDF4.Dataset("scores", "w", memory=1)
        dataset.setncatts({"title": TITLE, "Conventions": "CF-1.8", **attributes})
        dataset.members = np.int32(scores.members)
        axes = (scores.starts.numpy(), scores.lead_hours, scores.levels)
        for (name, says), values in zip(AXES.items(), axes, strict=True):
            numbers = np.asarray(values, np.float64)
            dataset.createDimension(name, len(numbers))
            dataset.createVariable(name, "f8", (name,)).setncatts(says)
            dataset.variables[name][:] = numbers
        dataset.createDimension("variable", len(scores.names))
        for name, words in (("variable", scores.names), ("units_of", scores.units)):
            dataset.createVariable(name, str, ("variable",))[:] = np.array(words, object)
        for columns, dimensions in ((COLUMNS, CELL), (EVENT_COLUMNS, (*CELL, "quantile"))):
            for name, column in columns.items():
                made = dataset.createVariable(name, "f8", dimensions, fill_value=np.nan)
                made.long_name = column.long_name
                made.power_of_units = np.int32(column.power)
                made.cell_methods = "area: mean"
                made[...] = scores.values[name].numpy()
        return bytes(dataset.close())


def read_start_scores(path: Path) -> StartScores:
    """Read what `write_start_scores` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; hpc-bnn evaluate writes it for runs that forecast fields"
        )
    with library_lock():
        try:
            with netCDF4.Dataset(path) as dataset:
                return _read(path, dataset)
        except OSError as error:
            raise ValueError(
                f"{path}: cannot be read as netCDF-4: {error}; make it again with hpc-bnn evaluate"
            ) from error


def _read(path: Path, dataset: netCDF4.Dataset) -> StartScores:
    dataset.set_auto_maskandscale(False)
    wanted = (*AXES, "variable", "units_of", *COLUMNS, *EVENT_COLUMNS)
    missing = [name for name in wanted if name not in dataset.variables]
    if missing or "members" not in dataset.ncattrs():
        raise ValueError(
            f"{path}: has no {', '.join(missing or ['members'])}: no scores of start times, or of "
            "another version; make it again with hpc-bnn evaluate"
        )
    held = {name: np.array(dataset.variables[name][...], np.float64) for name in AXES}
    try:
        return StartScores(
            starts=torch.from_numpy(held["start"].astype(np.int64)),
            lead_hours=tuple(held["lead_time"].tolist()),
            names=tuple(map(str, dataset.variables["variable"][:])),
            units=tuple(map(str, dataset.variables["units_of"][:])),
            levels=tuple(held["quantile"].tolist()),
            members=int(dataset.members),
            values={
                name: torch.from_numpy(np.array(dataset.variables[name][...], np.float64))
                for name in (*COLUMNS, *EVENT_COLUMNS)
            },
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}; make it again with hpc-bnn evaluate") from error
