"""An ensemble forecast as CF-1.8 netCDF, written by many processes at once without gathering.

    one process    create_forecast(path, plan)                      header, coordinates, full size
    then, each     with ForecastFile(path, plan) as file:           its members, in any order
                       file.write(member, lead, fields, start=0)
    then, one      finish(path, plan)                               checks, gives the final name

"Then" is a barrier of the caller; nothing here communicates. The bytes of the file do not depend on
who writes what when (forecast_layout.py).

Until `finish` the file is called NAME.partial and has one byte for each (start, member, lead time)
behind its end, set when the fields have reached the disk. So a process may be killed at any moment:
`written_starts` tells which starts are there, and `finish` refuses the file while a field is
missing, so that fields that nobody wrote never read as zeros, and cuts these bytes off.

C channels, H latitude, W longitude.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.files import is_forecast
from hpc_bnn.fields.forecast_plan import ForecastPlan
from hpc_bnn.files import open_shared, put, refuse_foreign, sync_folder

WRITTEN = b"\x01"


def partial_path(path: Path) -> Path:
    """Return the name that the file has until it is complete."""
    return path.with_name(f"{path.name}.partial")


def require_writable(path: Path, sources: Iterable[str] = ()) -> None:
    """Refuse to replace anything but an earlier forecast: to be asked before `create_forecast` and
    before `finish`; see `refuse_foreign`.

    sources: files that are read.
    """
    refuse_foreign(path, "forecast", is_forecast, sources=sources)


def create_forecast(path: Path, plan: ForecastPlan) -> None:
    """Create `partial_path(path)` with everything but the fields; for one process. One that is
    there already is replaced.

    A file `path` is left alone until `finish` replaces it. Fields take no space on most file
    systems before they are written, so a full disk shows only then.

    Raises
    ------
    ValueError
        For settings that make no file.
    OSError
        If it cannot be created; nothing is left of it.
    """
    if plan.forecast.members < 1:
        raise ValueError(f"{path}: members = {plan.forecast.members}: expected at least 1")
    partial, new = partial_path(path), path.with_name(f".{path.name}.new")
    try:
        head, along = plan.head, plan.along()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        with new.open("wb", buffering=0) as file:
            put(file.fileno(), head, 0)
            file.truncate(plan.end + plan.cells)
            for place, content in along:
                put(file.fileno(), content, place)
            os.fsync(file.fileno())
        new.replace(partial)  # so that it is whole, or not there
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        raise OSError(
            error.errno,
            f"{partial}: cannot be created: {error.strerror}; free space or raise the limit for "
            "large files there, or give another path",
        ) from error


class ForecastFile:
    """Writes fields into a created file; every process opens its own.

    Leaving `with` by an exception gives up what was written since opening. Cannot be pickled.

    present: (C, H, W), the points that have values; at the others `_FillValue` (NaN) is written.
    """

    def __init__(
        self, path: Path, plan: ForecastPlan, *, present: NDArray[np.bool_] | None = None
    ) -> None:
        self._path, self._plan, self._present = partial_path(path), plan, present
        _require_partial(self._path, plan)
        self._file = os.fdopen(open_shared(self._path), "r+b", buffering=0)  # closed by close()
        self._written: set[int] = set()

    def write(self, member: int, lead: int, fields: NDArray[np.float32], *, start: int = 0) -> None:
        """Write the fields (C, H, W) of one member at one lead time.

        member, lead, start: indices from 0 on.
        fields: in physical units, channels and rows in the order of the forecast of the plan.

        Raises
        ------
        ValueError
            For fields of another shape or type, or with values that are not finite: then nothing
            is written.
        OSError
            If the disk is full or fails.
        """
        forecast = self._plan.forecast
        for name, index, length in (
            ("member", member, forecast.members),
            ("lead", lead, len(forecast.lead_hours)),
            ("start", start, len(forecast.starts_s)),
        ):
            if not 0 <= index < length:
                raise ValueError(f"{self._path}: {name} = {index}: expected 0 to {length - 1}")
        variables = forecast.variables
        shape = (len(variables), *self._plan.grid)
        if fields.shape != shape or fields.dtype != np.dtype(np.float32):
            where = _where(self._plan, start, member, lead)
            raise ValueError(
                f"{self._path}: {where}: fields of shape {fields.shape} and type {fields.dtype}: "
                f"expected (channels, latitude, longitude) = {shape} and type float32"
            )
        checked = fields
        if self._present is not None:
            checked = np.where(self._present, fields, np.float32(0))
            fields = np.where(self._present, fields, np.float32(np.nan))
        if not np.isfinite(checked).all():
            raise self._blown_up(checked, _where(self._plan, start, member, lead))
        if self._plan.description.flips_rows:
            fields = fields[:, ::-1]
        for number, field in enumerate(fields.astype(">f4", order="C")):
            place = self._plan.place(number, start, member, lead)
            try:
                put(self._file.fileno(), field.view(np.uint8), place)
            except OSError as error:
                where = _where(self._plan, start, member, lead)
                what = f"variable '{variables[number].name}', {where}"
                raise self._failure(error, what) from error
        leads = len(forecast.lead_hours)
        self._written.add(start * self._plan.cells_of_start + member * leads + lead)

    def commit(self) -> None:
        """Bring the fields to the disk, then note that they are there.

        The notes may be lost with the power: then the fields are written again.
        """
        try:
            os.fsync(self._file.fileno())
            for first, count in _runs(sorted(self._written)):
                put(self._file.fileno(), WRITTEN * count, self._plan.end + first)
        except OSError as error:
            some = _names(self._plan, sorted(self._written))
            raise self._failure(error, f"all variables, {some}") from error
        self._written.clear()

    def close(self) -> None:
        """Commit what is written."""
        if self._file.closed:
            return
        with self._file:
            self.commit()

    def __enter__(self) -> ForecastFile:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _blown_up(self, fields: NDArray[np.float32], where: str) -> ValueError:
        """Return what to raise of fields (C, H, W) with values that are not finite."""
        bad = np.count_nonzero(~np.isfinite(fields), axis=(1, 2))
        first = int(np.flatnonzero(bad)[0])
        name = self._plan.forecast.variables[first].name
        return ValueError(
            f"{self._path}: variable '{name}', {where}: {bad[first]} of {fields[first].size} "
            "values are not finite: the forecast blew up; forecast fewer steps, or train longer"
        )

    def _failure(self, error: OSError, what: str) -> OSError:
        return OSError(
            error.errno,
            f"{self._path}: {what}: cannot be written: {error.strerror}; free space or raise the "
            f"quota there (the whole file has {self._plan.end} bytes), then run the same command "
            "again; or remove this file and give another path",
        )


def written_starts(path: Path, plan: ForecastPlan) -> list[int]:
    """Return the starts, as indices, of which a file that is not finished has all fields."""
    cells = _noted(path, plan).reshape(len(plan.forecast.starts_s), -1)
    return [int(at) for at in np.flatnonzero(cells.all(1))]


def finish(path: Path, plan: ForecastPlan) -> None:
    """Give the file its final name; for one process, after all have closed it.

    Raises
    ------
    ValueError
        If a (start, member, lead time) was not written: the file then keeps its partial name.
    """
    partial = partial_path(path)
    missing = np.flatnonzero(~_noted(path, plan))
    if len(missing):
        raise ValueError(
            f"{partial}: never written: {_names(plan, missing.tolist())}; the file keeps this "
            "name: write them, or remove it and forecast again"
        )
    with partial.open("r+b", buffering=0) as file:
        os.truncate(file.fileno(), plan.end)
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def _noted(path: Path, plan: ForecastPlan) -> NDArray[np.bool_]:
    """Return for each (start, member, lead time) whether its fields are there."""
    partial = partial_path(path)
    _require_partial(partial, plan)
    with partial.open("rb") as file:
        file.seek(plan.end)
        noted: NDArray[np.bool_] = np.frombuffer(file.read(), "S1") == WRITTEN
        return noted


def _runs(cells: list[int]) -> Iterator[tuple[int, int]]:
    """Return the first and the number of cells, which are sorted, that follow on each other."""
    first = 0
    for at in range(1, len(cells) + 1):
        if at == len(cells) or cells[at] != cells[at - 1] + 1:
            yield cells[first], at - first
            first = at


def _where(plan: ForecastPlan, start: int, member: int, lead: int) -> str:
    where = f"member {member} at lead time {plan.forecast.lead_hours[lead]:g} h"
    starts = plan.forecast.starts_s
    return where if len(starts) == 1 else f"{where} from {times.text(starts[start])}"


def _names(plan: ForecastPlan, cells: list[int]) -> str:
    """Name the first of some fields, and say how many there are."""
    first = "none"
    if cells:
        start, rest = divmod(cells[0], plan.cells_of_start)
        first = _where(plan, start, *divmod(rest, len(plan.forecast.lead_hours)))
    return f"{len(cells)} of {plan.cells} fields, the first of {first}"


def _require_partial(partial: Path, plan: ForecastPlan) -> None:
    """Require a file that `create_forecast` made and `finish` has not seen."""
    if not partial.exists():
        raise FileNotFoundError(
            f"{partial}: no such file: one process calls create_forecast first and finish last; "
            "the others wait for it"
        )
    if partial.stat().st_size != plan.end + plan.cells:
        raise ValueError(
            f"{partial}: not a forecast that is being written: expected a file of create_forecast "
            "before its finish; remove it and forecast again"
        )
