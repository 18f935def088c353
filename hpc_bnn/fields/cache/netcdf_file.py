"""One netCDF-4 file of a repacked archive: float32, not compressed, one step a chunk, or one level
of it, with the checksums of the library (fletcher32); CF-1.8, laid out as ERA5 files are.

A file has its name only when all of it is on the disk.

Shape letters: L levels, H latitude, W longitude.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.data.disk import sync_file, sync_folder, unwritable
from hpc_bnn.fields.cache.header import Request
from hpc_bnn.fields.catalogue import Catalogue, Channel
from hpc_bnn.fields.ingest.netcdf import library_lock

READ_BYTES = 1 << 20
ROOM = 1.05  # the space of a file, times that of its values: the index of the chunks
ROOM_BYTES = 1 << 15
FINAL, PRELIMINARY = 1, 5  # expver of ERA5 and of ERA5T
HORIZONTAL = ("latitude", "longitude")


@contextlib.contextmanager
def written_whole(path: Path, size: int) -> Iterator[netCDF4.Dataset]:
    """Give a new file to be filled with `size` bytes of values; it appears when it is complete.

    Raises
    ------
    OSError
        If the disk is full or fails.
    """
    partial = path.with_name(f"{path.name}.partial")
    # Asked first: after a failed write the library keeps the file open until the process ends.
    if shutil.disk_usage(path.parent).free < size * ROOM + ROOM_BYTES:
        raise unwritable(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path)
    partial.unlink(missing_ok=True)
    try:
        with library_lock():
            dataset = netCDF4.Dataset(partial, "w", format="NETCDF4")
            try:
                yield dataset
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    dataset.close()
                partial.unlink(missing_ok=True)
                raise
            dataset.close()
        sync_file(partial)
        partial.replace(path)
        sync_folder(path.parent)
    except RuntimeError as error:  # the library tells nothing more
        partial.unlink(missing_ok=True)
        raise unwritable(OSError(errno.EIO, f"the netCDF library says '{error}'"), path) from error


def crc32_of(path: Path, before: int = 0) -> int:
    """Compute the checksum of a whole file, going on from one `before`."""
    found = before
    with path.open("rb") as file:
        while raw := file.read(READ_BYTES):
            found = zlib.crc32(raw, found)
    return found


def describe_grid(dataset: netCDF4.Dataset, request: Request, title: str) -> None:
    """Write the attributes of a file and the horizontal coordinates."""
    dataset.setncatts(
        {"Conventions": "CF-1.8", "title": title, "source": f"hpc-bnn data repack {request.source}"}
    )
    dataset.setncatts({"source_fingerprint": request.source_fingerprint})
    for name, values, units, axis in (
        ("latitude", request.latitude, "degrees_north", "Y"),
        ("longitude", request.longitude, "degrees_east", "X"),
    ):
        _coordinate(
            dataset, name, np.array(values), {"units": units, "standard_name": name, "axis": axis}
        )


def describe_times(dataset: netCDF4.Dataset, part: Catalogue) -> None:
    """Write the times of a file, and which of them are ERA5T."""
    attributes = {
        "units": "seconds since 1970-01-01",
        "calendar": "proleptic_gregorian",
        "standard_name": "time",
        "axis": "T",
    }
    _coordinate(dataset, "valid_time", part.times, attributes)
    version = dataset.createVariable("expver", "i4", ("valid_time",))
    version.long_name = f"version of the experiment, {PRELIMINARY}: ERA5T, preliminary"
    version[:] = np.where(part.preliminary, PRELIMINARY, FINAL)


def fields_variable(
    dataset: netCDF4.Dataset, channels: Sequence[Channel], *, timed: bool, whole_steps: bool
) -> netCDF4.Variable[Any]:
    """Make the variable of some channels, levels of one, in a file with its other coordinates.

    whole_steps: all levels of a step in one chunk, else each in its own.
    """
    first = channels[0]
    axes, chunk = (("valid_time",), [1]) if timed else ((), [])
    if first.level_hpa is not None:
        _coordinate(
            dataset,
            "pressure_level",
            np.array([channel.level_hpa for channel in channels], np.float64),
            {"units": "hPa", "standard_name": "air_pressure", "positive": "down", "axis": "Z"},
        )
        axes, chunk = (*axes, "pressure_level"), [*chunk, len(channels) if whole_steps else 1]
    chunk += [len(dataset.dimensions[name]) for name in HORIZONTAL]
    variable = dataset.createVariable(
        first.variable,
        "f4",
        (*axes, *HORIZONTAL),
        fletcher32=True,
        chunksizes=chunk,
        fill_value=np.float32(np.nan),
    )
    texts = {"units": first.units, "standard_name": first.standard_name}
    texts |= {"long_name": first.long_name, "coordinates": "expver" if timed else ""}
    variable.setncatts({name: text for name, text in texts.items() if text})
    variable.set_auto_maskandscale(False)
    return variable


def keep_chunks(variable: netCDF4.Variable[Any], count: int) -> None:
    """Let the library keep so many chunks in memory while they are put together."""
    chunk: Any = variable.chunking()
    one = 4 * int(np.prod(chunk))
    variable.set_var_chunk_cache(size=max(count, 1) * one, nelems=101 * max(count, 1), preemption=1)


def _coordinate(
    dataset: netCDF4.Dataset, name: str, values: NDArray[Any], attributes: dict[str, str]
) -> None:
    dataset.createDimension(name, len(values))
    variable = dataset.createVariable(name, values.dtype, (name,))
    variable.setncatts(attributes)
    variable[:] = values
