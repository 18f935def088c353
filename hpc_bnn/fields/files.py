"""The files and stores that a path means, and their headers, whatever their format.

A store is a folder that is read as one file, such as one of zarr. The netCDF files that this
package writes itself bear marks: they are left out where a folder of data is read, and they alone
may be replaced by a file of their kind.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from hpc_bnn.fields.ingest import anemoi, grib, netcdf, zarr
from hpc_bnn.fields.ingest.header import Header

# What a module of a format has: SUFFIXES, recognises, content, read_headers, read and close, as
# netcdf.py. The first that recognises a path reads it.
FORMATS: dict[str, ModuleType] = {
    "netcdf": netcdf,
    "anemoi": anemoi,
    "zarr": zarr,
    "grib": grib,
}
SUFFIXES = tuple(dict.fromkeys(s for module in FORMATS.values() for s in module.SUFFIXES))

STATISTICS, FORECAST, REPACK = "data statistics", "forecast", "data repack"
# Command: attribute and how its text begins; dimensions.
MARKS = {
    STATISTICS: ("title", "Statistics of atmospheric channels for normalisation", {"channel"}),
    FORECAST: ("source", "hpc_bnn ", {"latitude", "longitude"}),
}
REPACKED = "cache.json"  # describes a folder of `hpc-bnn data repack` of version 0.1


def find_files(path: str | Path, problems: list[str] | None = None) -> list[str]:
    """List the data files and stores of a name, a folder with subfolders or a pattern, sorted.

    In a folder, links are followed and whatever is hidden is left out; a file is listed once.

    Parameters
    ----------
    problems
        Receives links to nothing and folders that cannot be searched; raised where None.

    Raises
    ------
    FileNotFoundError
        If there is none; says what is there.
    ValueError
        With all problems, if nobody receives them.
    """
    if "://" in str(path):
        raise FileNotFoundError(
            f"{path}: expected a local path: nothing is read over the network; copy what is wanted "
            "of it here first"
        )
    place = Path(path).expanduser()
    if place.is_file() or format_of(place):
        return [str(place)]
    defects: list[str] = []
    if place.is_dir():
        files = sorted(_below(place, defects, set()))
        content = "" if defects else ", ".join(sorted(p.name for p in place.iterdir())[:8])
        nothing = (
            f"{path}: no data file ({', '.join(SUFFIXES)}) in this folder; it has "
            f"{content or 'nothing'}"
        )
    else:
        files = _matching(place, defects)
        nothing = (
            f"{path}: no such file or folder, and no file matches it as a pattern; give a data "
            "file, a folder of them, or a pattern such as 'era5/*.nc'"
        )
    if not files:
        raise FileNotFoundError("\n".join(defects) or nothing)
    if defects and problems is None:
        raise ValueError("\n".join(defects))
    if problems is not None:
        problems += defects
    return _once(files)


def _matching(pattern: Path, problems: list[str]) -> list[str]:
    """List the files that a pattern fits.

    ``**`` is resolved here: the library would follow circles of links for ever.
    """
    parts = pattern.parts
    if "**" in parts:
        at = parts.index("**")
        seen: set[tuple[int, int]] = set()
        files = []
        for base in sorted(glob.glob(str(Path(*parts[:at])))):  # noqa: PTH207
            if Path(base).is_dir():
                below = sorted(_below(Path(base), problems, seen))
                files += [p for p in below if _fits(Path(p).relative_to(base).parts, parts[at:])]
        return files
    matches = sorted(glob.glob(str(pattern)))  # noqa: PTH207  Path.glob takes no absolute pattern
    problems += [_dangling(Path(one)) for one in matches if not Path(one).exists()]
    return [one for one in matches if Path(one).is_file() or format_of(Path(one))]


def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Tell whether the names of a path fit a pattern; ``**`` stands for any number of folders."""
    if not pattern or not names:
        return not names and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _fits(names, pattern[1:]) or _fits(names[1:], pattern)
    return fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _below(folder: Path, problems: list[str], seen: set[tuple[int, int]]) -> Iterator[str]:
    """Give the data files below a folder, each folder searched once whatever links lead to it."""
    try:
        state = folder.stat()
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        problems.append(
            f"{folder}: cannot be searched: {error.strerror}; make it readable, or move it away"
        )
        return
    if (state.st_dev, state.st_ino) in seen:
        return
    seen.add((state.st_dev, state.st_ino))
    for path in (folder / name for name in names if not name.startswith(".")):
        if path.is_dir() and format_of(path):
            yield str(path)
        elif path.is_dir():
            yield from _below(path, problems, seen)
        elif path.suffix.lower() in SUFFIXES and path.is_file():
            yield str(path)
        elif path.is_symlink() and not path.exists():
            problems.append(_dangling(path))


def _dangling(link: Path) -> str:
    return (
        f"{link}: a link to {link.readlink()}, which is not there: restore what it means, or "
        "remove the link"
    )


def _once(paths: Sequence[str]) -> list[str]:
    """Drop files that an earlier path leads to as well."""
    first: dict[str, str] = {}
    for path in paths:
        first.setdefault(os.path.realpath(path), path)
    return list(first.values())


def format_of(path: Path) -> str:
    """Return the format of a file or store, by its content; empty where none is known."""
    return next((name for name, module in FORMATS.items() if module.recognises(path)), "")


def content(path: Path) -> list[Path]:
    """List the files that tell one state of a file or store from another."""
    name = format_of(path)
    parts: list[Path] = FORMATS[name].content(path) if name else [path]
    return parts


def read_headers(path: str) -> tuple[Header, ...]:
    """Read the headers of a file or store, one for each set of variables that share their levels
    and times.

    Raises
    ------
    ValueError
        If it is truncated, damaged, or of no format that is known, says what it is; or if the
        package that reads the format is not installed.
    OSError
        If it cannot be read.
    """
    try:
        name = format_of(Path(path))
        magic = b"" if name else _first_bytes(path)
    except OSError as error:
        raise type(error)(f"{path}: cannot be read: {error.strerror}") from error
    if not name:
        raise ValueError(f"{path}: {_describe_magic(magic)}")
    headers: tuple[Header, ...] = FORMATS[name].read_headers(path)
    return headers


def _first_bytes(path: str) -> bytes:
    with Path(path).open("rb") as stream:
        return stream.read(8)


def _describe_magic(magic: bytes) -> str:
    if not magic:
        return "an empty file; copy or download it again"
    if magic[:2] == b"PK":
        return (
            "a zip archive, not netCDF: the data store packs several files into one; unpack it "
            "(`unzip FILE -d FOLDER`) and give the folder"
        )
    if magic[:2] == b"\x1f\x8b":
        return "compressed by gzip, not netCDF: unpack it with gunzip"
    return f"no data file: it begins with {magic!r}; expected one of {', '.join(FORMATS)}"


def maker(header: Header) -> str:
    """Return the command of this package that wrote a file, empty for files of others."""
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


def _maker_of(path: str | Path) -> str:
    try:
        return maker(read_headers(str(path))[0])
    except (ValueError, OSError):  # named where the file is read
        return ""


def is_statistics(path: Path) -> bool:
    """Tell whether a file is one of ``data statistics``."""
    return _maker_of(path) == STATISTICS


def is_forecast(path: Path) -> bool:
    """Tell whether a file is one of ``forecast``."""
    return _maker_of(path) == FORECAST


def data_files(paths: Sequence[str]) -> list[str]:
    """Return those of some files that are read as data; see `left_out`."""
    out = left_out({path: _maker_of(path) for path in paths})
    return [path for path in paths if path not in out]


def left_out(makers: Mapping[str, str]) -> set[str]:
    """Choose which files, each with what wrote it, are not read: those of this package.

    Forecasts and repacked files are read where there is nothing else: then they are meant.
    """
    if all(makers.values()):
        statistics = {path for path, command in makers.items() if command == STATISTICS}
        return statistics if len(statistics) < len(makers) else set()
    return {path for path, command in makers.items() if command}
