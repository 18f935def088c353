"""A pack that is opened: some of its channels, at all its times, and where each step lies.

Plain records and arrays, without open files: one rank opens it and sends it to the others.

Shape letters: T times, C channels.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields import times
from hpc_bnn.fields.grid import Grid
from hpc_bnn.fields.pack.header import STATIC, Header, PackChannel, read_header, read_steps
from hpc_bnn.fields.pack.sources import changes, listed
from hpc_bnn.fields.selection import Key, resolve_channels, resolve_static

logger = logging.getLogger(__name__)

Stale = Literal["error", "allow"]


@dataclass(frozen=True, eq=False)
class Pack:
    """Say what is in a pack and where.

    source: the path as it was given.
    times: (T,) int64, seconds since 1970, sorted.
    channels: states; static: fields without time.
    positions: of the channels in a step; static_positions: of the static fields, -1 - c for a field
        that is the first step of channel c.
    absent: (T, all channels of the file) whether a step has no such field.
    preliminary: (T,) whether a step is ERA5T.
    year, slot: (T,) where each step lies.
    problems: what makes it unusable; notices: what else is worth knowing.
    """

    folder: Path
    source: str
    header: Header
    grid: Grid
    times: NDArray[np.int64]
    channels: tuple[PackChannel, ...]
    positions: tuple[int, ...]
    static: tuple[PackChannel, ...]
    static_positions: tuple[int, ...]
    absent: NDArray[np.bool_]
    preliminary: NDArray[np.bool_]
    year: NDArray[np.int16]
    slot: NDArray[np.int32]
    problems: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the channels."""
        return tuple(channel.name for channel in self.channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one step."""
        return len(self.channels), len(self.grid.latitude), len(self.grid.longitude)

    def present(self) -> NDArray[np.bool_]:
        """Tell for each time (T,) whether every channel has it."""
        return np.asarray(~self.absent[:, list(self.positions)].any(axis=1), np.bool_)

    def place(self, channel: int, time: int) -> str:
        """Name file, channel and time of one field: a channel at a position in `times`."""
        when = times.text(int(self.times[time]))
        return f"{self.path(time)}: '{self.names[channel]}' at {when}"

    def path(self, time: int) -> Path:
        """Return the file that the step at a position in `times` lies in."""
        return year_path(self.folder, f"{self.year[time]:04d}")

    def files(self) -> tuple[str, ...]:
        """List the files of the pack and of its source, which no output may replace."""
        years = [str(year_path(self.folder, year)) for year in self.header.years]
        return (*years, *(file.path for file in self.header.files))

    def fingerprint(self) -> str:
        """Hash what `Catalogue.fingerprint` hashes: it is that of the files it was made of."""
        digest = hashlib.sha256()
        digest.update(repr(self.header.origin).encode())
        digest.update(self.times.tobytes())
        return digest.hexdigest()[:16]

    def select(self, variables: Sequence[str], levels: Sequence[float] = ()) -> Pack:
        """Return the pack with some of its channels, in the order that is wanted.

        Raises
        ------
        ValueError
            If there is no such channel; lists those there are.
        """
        known = {_key(c): at for at, c in enumerate(self.header.channels)}
        keys = resolve_channels(self.source, list(known), variables, levels, {})
        positions = tuple(known[key] for key in keys)
        channels = tuple(self.header.channels[at] for at in positions)
        return replace(self, channels=channels, positions=positions)

    def select_static(self, names: Sequence[str] | None) -> Pack:
        """Return the pack with some of its static fields, all where None; the first step of a state
        where no static field has the name.
        """
        states = {_key(c): -1 - at for at, c in enumerate(self.header.channels)}
        fixed = {_key(c): at for at, c in enumerate(self.header.static)}
        every = states | fixed
        keys = (
            list(fixed)
            if names is None
            else [resolve_static(self.source, list(every), name, {}) for name in names]
        )
        at = tuple(every[key] for key in keys)
        channels = tuple(
            self.header.static[i] if i >= 0 else self.header.channels[-1 - i] for i in at
        )
        return replace(self, static=channels, static_positions=at)


class OtherPackError(ValueError):
    """A pack is not what is wanted: of other channels, files or another member."""


def open_pack(
    path: str | Path,
    *,
    variables: Sequence[str] = (),
    levels: Sequence[float] = (),
    static: Sequence[str] | None = (),
    member: int | None = None,
    stale: Stale = "error",
    strict: bool = True,
) -> Pack:
    """Open a pack and compare its source with what it was.

    variables, levels, static: as of `catalogue`.
    member: of ensemble files; None takes whatever it was made of.
    stale: "allow" uses a pack whose source changed since, with a warning.
    strict: raise on any problem; else list it in `problems`.

    Raises
    ------
    FileNotFoundError, ValueError
        If it is not finished, has not what is wanted (`OtherPackError`), or, if strict, is
        damaged or stale.
    """
    if stale not in ("error", "allow"):
        raise ValueError(f"stale = '{stale}': expected 'error' or 'allow'")
    folder = Path(path).expanduser()
    header = read_header(folder)
    if member is not None and member != header.member:
        raise ValueError(
            f"{path}: member = {member}: this pack was made with member = {header.member}; "
            "ingest that one into another folder"
        )
    problems, notices = _state(folder, header, stale)
    problems = [*_cut_off(folder, header), *problems]
    if problems and strict:
        raise ValueError("\n".join(problems))
    when, absent, preliminary, year, slot = read_steps(folder, header)
    pack = Pack(
        folder=folder,
        source=str(path),
        header=header,
        grid=Grid(np.array(header.latitude), np.array(header.longitude), header.periodic),
        times=when,
        channels=header.channels,
        positions=tuple(range(len(header.channels))),
        static=(),
        static_positions=(),
        absent=absent,
        preliminary=preliminary,
        year=year,
        slot=slot,
        problems=tuple(problems),
        notices=tuple(notices),
    )
    for notice in notices:
        logger.info("%s", notice)
    try:
        chosen = pack.select(variables, levels) if variables or levels else pack
        return chosen.select_static(static if variables or static else None)
    except ValueError as error:
        command = ingest_command(
            header.source, "NEW_FOLDER", variables, levels, static or (), header.member
        )
        raise OtherPackError(f"{error}; to pack it: `{command}`") from error


def ingest_command(
    source: str | Path,
    folder: str | Path,
    variables: Sequence[str],
    levels: Sequence[float],
    static: Sequence[str],
    member: int | None,
) -> str:
    """Return the command that packs what is wanted of files."""
    options = {
        "--variables": ",".join(variables),
        "--levels": ",".join(f"{level:g}" for level in levels),
        "--static": ",".join(static),
        "--member": "" if member is None else str(member),
    }
    words = ["hpc-bnn", "data", "ingest", str(source), "-o", str(folder)]
    words += [word for name, text in options.items() if text for word in (name, text)]
    return shlex.join(words)


def append_command(folder: Path, header: Header) -> str:
    """Return the command that appends to a pack what was added to its source."""
    channels, static = ([c.name for c in some] for some in (header.channels, header.static))
    return ingest_command(header.source, folder, channels, (), static, header.member)


def year_path(folder: Path, year: str) -> Path:
    """Return the file of the steps of a year."""
    return folder / f"{year}.f32"


def _key(channel: PackChannel) -> Key:
    return channel.variable, channel.level_hpa


def _state(folder: Path, header: Header, stale: Stale) -> tuple[list[str], list[str]]:
    """Compare a pack with its source; return problems and notices."""
    found = changes(header.source, header.files)
    if found is None:
        text = f"the {len(header.files)} files it was made of ({header.source}) are not here"
        return [], [f"{folder}: {text}; it is used without comparing them"]
    notices = []
    if found.added:
        notices.append(
            f"{folder}: files were added to its source since it was made, which it does not hold: "
            f"{listed(found.added)}; `{append_command(folder, header)}` appends them"
        )
    if not found.changed:
        return [], notices
    text = (
        f"{folder}: this pack is stale, its source changed since it was made: "
        f"{listed(found.changed)}"
    )
    if stale == "allow":
        logger.warning("%s; it is used as it is, since stale = 'allow'", text)
        return [], [f"{text}; it is used as it is", *notices]
    text += f"; remove it and ingest {header.source} again, restore the files, or use it as it is"
    return [f"{text} with data.stale=allow (commands: --stale allow)"], notices


def _cut_off(folder: Path, header: Header) -> list[str]:
    """Say which files are not whole."""
    static = len(header.static) * header.field_bytes
    sizes = {folder / STATIC: static} | {
        year_path(folder, year): count * header.stride for year, count in header.years.items()
    }
    return [
        f"{path}: has {size} bytes, expected {least}: cut off or copied in part; copy it again, or "
        "remove the folder and ingest again"
        for path, least in sizes.items()
        if (size := path.stat().st_size if path.exists() else 0) < least
    ]
