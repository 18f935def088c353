"""The netCDF files that this package writes itself, told from data by marks they carry.

A folder of data may hold them too: they are left out where it is read, and they alone may be
replaced by a file of their kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hpc_bnn.fields.files import read_header
from hpc_bnn.fields.ingest.header import Header

REPACKED = "cache.json"  # the file that describes a folder of `hpc-bnn data repack`
STATISTICS, FORECAST, REPACK = "data statistics", "forecast", "data repack"
# Command: attribute and how its text begins; dimensions.
MARKS = {
    STATISTICS: ("title", "Statistics of atmospheric channels for normalisation", {"channel"}),
    FORECAST: ("source", "hpc_bnn ", {"member", "lead_time", "latitude", "longitude"}),
}


def made_by(header: Header) -> str:
    """Return the command that wrote a netCDF file, empty for files of others.

    A file counts as one of ``data repack`` only in its folder, beside what describes it.
    """
    if _is_repacked(Path(header.path).parent):
        return REPACK
    for command, (attribute, text, dimensions) in MARKS.items():
        begins = str(header.attributes.get(attribute, "")).startswith(text)
        if begins and dimensions <= set(header.dimensions):
            return command
    return ""


def _is_repacked(folder: Path) -> bool:
    for path in (folder / REPACKED, folder / f"{REPACKED}.partial"):
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(100)
            if b'"version"' in head and b'"dtype"' in head:
                return True
    return False


def is_statistics(path: Path) -> bool:
    """Tell whether a file is one of ``data statistics``."""
    return _maker(path) == STATISTICS


def is_forecast(path: Path) -> bool:
    """Tell whether a file is one of ``forecast``."""
    return _maker(path) == FORECAST


def _maker(path: str | Path) -> str:
    try:
        return made_by(read_header(str(path)))
    except (ValueError, OSError):  # named where the file is read
        return ""


def data_files(paths: Sequence[str]) -> list[str]:
    """Return those of some files that are read as data; see `left_out`."""
    out = left_out({path: _maker(path) for path in paths})
    return [path for path in paths if path not in out]


def left_out(makers: Mapping[str, str]) -> set[str]:
    """Choose which files, each with what wrote it, are not read: those of this package.

    Forecasts and repacked files are read where nothing else was found: then they were meant.
    """
    if all(makers.values()):
        statistics = {path for path, maker in makers.items() if maker == STATISTICS}
        return statistics if len(statistics) < len(makers) else set()
    return {path for path, maker in makers.items() if maker}
