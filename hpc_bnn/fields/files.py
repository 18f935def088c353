"""Finds the files a user means and reads their headers, whatever their format."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from hpc_bnn.fields.ingest import netcdf
from hpc_bnn.fields.ingest.header import Header

# What a module of a format has: SUFFIXES, MAGIC, read_header, read and close, as netcdf.py.
FORMATS: dict[str, ModuleType] = {"netcdf": netcdf}
SUFFIXES = tuple(suffix for module in FORMATS.values() for suffix in module.SUFFIXES)


def find_files(path: str | Path, problems: list[str] | None = None) -> list[str]:
    """List the netCDF files of a file name, a folder (with its subfolders) or a pattern, sorted.

    In a folder, links are followed and whatever is hidden is left out; a file is listed once.

    problems: receives links to nothing and folders that cannot be searched; raised where None.

    Raises
    ------
    FileNotFoundError
        If there is none; says what is there.
    ValueError
        With all problems, if nobody receives them.
    """
    given = Path(path).expanduser()
    wrong: list[str] = []
    if given.is_dir():
        found = sorted(_below(given, wrong, set()))
        if not found:
            there = sorted(p.name for p in given.iterdir())[:8] if not wrong else []
            raise FileNotFoundError(
                "\n".join(wrong)
                or f"{path}: no netCDF file ({', '.join(SUFFIXES)}) in this folder; it has "
                f"{', '.join(there) or 'nothing'}"
            )
    elif given.is_file():
        return [str(given)]
    else:
        found = _matching(given, wrong)
        if not found:
            raise FileNotFoundError(
                "\n".join(wrong)
                or f"{path}: no such file or folder, and no file matches it as a pattern; give a "
                "netCDF file, a folder of them, or a pattern such as 'era5/*.nc'"
            )
    if wrong and problems is None:
        raise ValueError("\n".join(wrong))
    if problems is not None:
        problems += wrong
    return _once(found)


def _matching(pattern: Path, problems: list[str]) -> list[str]:
    """List the files that a pattern fits.

    ``**`` is resolved here: the library would follow circles of links for ever.
    """
    parts = pattern.parts
    if "**" in parts:
        at = parts.index("**")
        seen: set[tuple[int, int]] = set()
        found = []
        for base in sorted(glob.glob(str(Path(*parts[:at])))):  # noqa: PTH207
            if Path(base).is_dir():
                below = sorted(_below(Path(base), problems, seen))
                found += [p for p in below if _fits(Path(p).relative_to(base).parts, parts[at:])]
        return found
    matches = sorted(glob.glob(str(pattern)))  # noqa: PTH207  Path.glob takes no absolute pattern
    problems += [_dangling(Path(one)) for one in matches if not Path(one).exists()]
    return [one for one in matches if Path(one).is_file()]


def _fits(names: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Tell whether the names of a path fit a pattern; ``**`` stands for any number of folders."""
    if not pattern or not names:
        return not names and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _fits(names, pattern[1:]) or _fits(names[1:], pattern)
    return fnmatch.fnmatchcase(names[0], pattern[0]) and _fits(names[1:], pattern[1:])


def _below(folder: Path, problems: list[str], seen: set[tuple[int, int]]) -> Iterator[str]:
    """Give the netCDF files below a folder, each folder searched once whatever links lead to it."""
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
        if path.is_dir():
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
    for module in FORMATS.values():
        if magic.startswith(module.MAGIC):
            header: Header = module.read_header(path)
            return header
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
