"""An ensemble forecast as CF-1.8 netCDF, written by many processes at once without gathering.

    one process    create_forecast(path, ...)                       header, coordinates, full size
    then, each     with ForecastFile(path) as file:                 its members, in any order
                       file.write(member, lead, fields)
    then, one      finish(path)                                     checks, gives the final name

"Then" is a barrier of the caller; nothing here communicates. The format is netCDF-3 with 64-bit
data (CDF-5): plain big-endian arrays at offsets that the header states, so the bytes of the file do
not depend on who writes what when. `member` is its record dimension, for two reasons: all fields of
a member lie together, and the netCDF library, which moves variables of fixed size whenever the
header grows (so wrote the whole file once for each attribute), has nothing to move.

Until `finish` the file is called NAME.partial and has one byte for each (member, lead time) behind
its end, set when the fields have reached the disk. `finish` refuses the file while one is missing,
so that fields that nobody wrote never read as zeros, and cuts these bytes off.

C channels, H latitude, W longitude.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import pack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpc_bnn.data.source import FieldChannel
from hpc_bnn.fields.files import is_forecast
from hpc_bnn.fields.forecast_header import CELL, forecast_header
from hpc_bnn.fields.ingest import netcdf
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


def create_forecast(
    path: Path,
    *,
    variables: Sequence[FieldChannel],
    latitude: ArrayLike,
    longitude: ArrayLike,
    start_s: int,
    lead_hours: ArrayLike,
    members: int,
    attributes: Mapping[str, str],
) -> None:
    """Create `partial_path(path)` with everything but the fields; for one process.

    A file `path` is left alone until `finish` replaces it. Fields take no space on most file
    systems before they are written, so a full disk shows only then.

    latitude, longitude: (H,) and (W,), degrees. start_s: seconds since 1970-01-01T00:00 UTC.
    lead_hours: increasing. attributes: of the whole file (title, history, source, ...).

    Raises
    ------
    ValueError
        For settings that make no file.
    FileExistsError
        If there is a partial file already.
    OSError
        If it cannot be created; nothing is left of it.
    """
    if members < 1:
        raise ValueError(f"{path}: members = {members}: expected at least 1")
    head = forecast_header(
        path,
        variables=variables,
        latitude=latitude,
        longitude=longitude,
        start_s=start_s,
        lead_hours=lead_hours,
        attributes=attributes,
    )
    record = 4 * (1 + len(variables) * np.size(lead_hours) * np.size(latitude) * np.size(longitude))
    partial = partial_path(path)
    try:
        file = partial.open("xb", buffering=0)
    except FileExistsError:
        raise FileExistsError(
            f"{partial}: another job is writing this forecast, or one was broken off: if none "
            "runs, remove it; else give this forecast another path"
        ) from None
    try:
        with file:
            put(file.fileno(), head[:4] + pack(">Q", members) + head[12:], 0)
            file.truncate(len(head) + members * record)
            layout = _layout(partial)  # refuses short files, so this one is too long
            file.truncate(layout.begin)
            file.truncate(layout.end + layout.cells)
            for member in range(members):
                put(file.fileno(), pack(">i", member), layout.begin + member * layout.record)
            os.fsync(file.fileno())
    except OSError as error:
        partial.unlink()
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

    def __init__(self, path: Path, *, present: NDArray[np.bool_] | None = None) -> None:
        self._path = partial_path(path)
        self._layout = _opened(self._path)
        self._present = present
        self._file = os.fdopen(open_shared(self._path), "r+b", buffering=0)  # closed by close()
        self._written: set[int] = set()

    def write(self, member: int, lead: int, fields: NDArray[np.float32]) -> None:
        """Write the fields (C, H, W) of one member at one lead time.

        member, lead: indices from 0 on.
        fields: in physical units, channels in the order of the variables of the file.

        Raises
        ------
        ValueError
            For fields of another shape or type, or with values that are not finite: then nothing
            is written.
        OSError
            If the disk is full or fails.
        """
        variables, leads = self._layout.variables, len(self._layout.lead_hours)
        members, grid = self._layout.members, self._layout.grid
        for name, index, length in (("member", member, members), ("lead", lead, leads)):
            if not 0 <= index < length:
                raise ValueError(f"{self._path}: {name} = {index}: expected 0 to {length - 1}")
        where, shape = self._layout.where(member, lead), (len(variables), *grid)
        if fields.shape != shape or fields.dtype != np.dtype(np.float32):
            raise ValueError(
                f"{self._path}: {where}: fields of shape {fields.shape} and type {fields.dtype}: "
                f"expected (channels, latitude, longitude) = {shape} and type float32"
            )
        checked = fields
        if self._present is not None:
            checked = np.where(self._present, fields, np.float32(0))
            fields = np.where(self._present, fields, np.float32(np.nan))
        for variable, field in zip(variables, checked, strict=True):
            bad = field.size - int(np.count_nonzero(np.isfinite(field)))
            if bad:
                raise ValueError(
                    f"{self._path}: variable '{variable}', {where}: {bad} of {field.size} "
                    "values are not finite: the forecast blew up; forecast fewer steps, or train "
                    "longer"
                )
        for number, field in enumerate(fields):
            place = self._layout.place(number, member, lead)
            try:
                put(self._file.fileno(), field.astype(">f4").tobytes(), place)
            except OSError as error:
                raise self._failure(error, f"variable '{variables[number]}', {where}") from error
        self._written.add(member * leads + lead)

    def close(self) -> None:
        """Bring the fields to the disk, then note that they are there."""
        if self._file.closed:
            return
        try:
            with self._file:
                os.fsync(self._file.fileno())
                for cell in sorted(self._written):
                    put(self._file.fileno(), WRITTEN, self._layout.end + cell)
                os.fsync(self._file.fileno())
        except OSError as error:
            some = self._layout.names(sorted(self._written))
            raise self._failure(error, f"all variables, {some}") from error

    def __enter__(self) -> ForecastFile:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _failure(self, error: OSError, what: str) -> OSError:
        return OSError(
            error.errno,
            f"{self._path}: {what}: cannot be written: {error.strerror}; free space or raise the "
            f"quota there (the whole file has {self._layout.end} bytes) or give another path, "
            "remove this file and forecast again",
        )


def finish(path: Path) -> None:
    """Give the file its final name; for one process, after all have closed it.

    Raises
    ------
    ValueError
        If a (member, lead time) was not written: the file then keeps its partial name.
    """
    partial = partial_path(path)
    layout = _opened(partial)
    with partial.open("r+b", buffering=0) as file:
        file.seek(layout.end)
        missing = np.flatnonzero(np.frombuffer(file.read(), "S1") != WRITTEN)
        if len(missing):
            raise ValueError(
                f"{partial}: never written: {layout.names(missing.tolist())}; the file keeps this "
                "name: write them, or remove it and forecast again"
            )
        os.truncate(file.fileno(), layout.end)
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


@dataclass(frozen=True)
class _Layout:
    """Where the fields lie: records of a member's number and all its fields, one after another.

    begin: of the records. record: bytes of each. grid: H, W.
    """

    variables: list[str]
    members: int
    lead_hours: list[float]
    grid: tuple[int, int]
    begin: int
    record: int

    @property
    def cells(self) -> int:
        """How many (member, lead time) there are."""
        return self.members * len(self.lead_hours)

    @property
    def end(self) -> int:
        """Where the netCDF file ends."""
        return self.begin + self.members * self.record

    def place(self, variable: int, member: int, lead: int) -> int:
        """Return the byte where a field begins."""
        fields = variable * len(self.lead_hours) + lead
        return self.begin + member * self.record + 4 * (1 + fields * self.grid[0] * self.grid[1])

    def where(self, member: int, lead: int) -> str:
        return f"member {member} at lead time {self.lead_hours[lead]:g} h"

    def names(self, cells: list[int]) -> str:
        """Name the first of some cells, and say how many there are."""
        first = self.where(*divmod(cells[0], len(self.lead_hours))) if cells else "none"
        return f"{len(cells)} of {self.cells} fields, the first of {first}"


def _layout(partial: Path) -> _Layout:
    header = netcdf.read_header(str(partial))
    variables = [v.name for v in header.variables.values() if v.dimensions == CELL]
    members, _, *grid = (header.dimensions.get(name, 0) for name in CELL)
    lead_hours = header.coordinates.get("lead_time", np.zeros(0)).tolist()
    begin, record = header.records
    return _Layout(variables, members, lead_hours, (grid[0], grid[1]), begin, record)


def _opened(partial: Path) -> _Layout:
    """Return the layout of a file that `create_forecast` made and `finish` has not seen."""
    if not partial.exists():
        raise FileNotFoundError(
            f"{partial}: no such file: one process calls create_forecast first and finish last; "
            "the others wait for it"
        )
    layout = _layout(partial)
    if not layout.cells or partial.stat().st_size != layout.end + layout.cells:
        raise ValueError(
            f"{partial}: not a forecast that is being written: expected a file of create_forecast "
            "before its finish; remove it and forecast again"
        )
    return layout
