"""Finds the files a user means and reads their headers, whatever their format."""

from __future__ import annotations

import glob
from pathlib import Path

from hpc_bnn.data.era5.header import Header
from hpc_bnn.data.era5.netcdf3 import read_netcdf3
from hpc_bnn.data.era5.netcdf4 import read_netcdf4

SUFFIXES = (".nc", ".nc4", ".netcdf", ".cdf")


def find_files(path: str | Path) -> list[str]:
    """List the netCDF files of a file name, a folder (with its subfolders) or a pattern, sorted.

    Raises
    ------
    FileNotFoundError
        If there is none; says what is there.
    """
    given = Path(path).expanduser()
    if given.is_dir():
        found = [p for p in given.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not found:
            there = sorted(p.name for p in given.iterdir())[:8]
            raise FileNotFoundError(
                f"{path}: no netCDF file ({', '.join(SUFFIXES)}) in this folder; it has "
                f"{', '.join(there) or 'nothing'}"
            )
        return sorted(map(str, found))
    if given.is_file():
        return [str(given)]
    # Path.glob takes no absolute pattern.
    matches = sorted(p for p in glob.glob(str(given), recursive=True) if Path(p).is_file())  # noqa: PTH207
    if not matches:
        raise FileNotFoundError(
            f"{path}: no such file or folder, and no file matches it as a pattern; give a netCDF "
            "file, a folder of them, or a pattern such as 'era5/*.nc'"
        )
    return matches


def read_header(path: str) -> Header:
    """Read the header of a netCDF file.

    Raises
    ------
    ValueError
        If the file is truncated, damaged, or something else than netCDF; says what it is.
    OSError
        If it cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            magic = stream.read(8)
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror}") from error
    if magic[:3] == b"CDF":
        return read_netcdf3(path)
    if magic == b"\x89HDF\r\n\x1a\n":
        return read_netcdf4(path)
    raise ValueError(f"{path}: {_what(magic)}")


def _what(magic: bytes) -> str:
    if not magic:
        return "an empty file; copy or download it again"
    if magic[:2] == b"PK":
        return (
            "a zip archive, not netCDF: the data store packs several files into one; unpack it "
            "(`unzip FILE -d FOLDER`) and give the folder"
        )
    if magic[:4] == b"GRIB":
        return "a GRIB file, not netCDF: convert it, or download with data_format = netcdf"
    if magic[:2] == b"\x1f\x8b":
        return "compressed by gzip, not netCDF: unpack it with gunzip"
    return f"no netCDF file: it begins with {magic!r}; expected CDF or HDF"
