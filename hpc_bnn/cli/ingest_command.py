"""`hpc-bnn data ingest`: from its options to what it says and its exit status."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hpc_bnn.fields import times
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.header import is_pack, read_header, refuse_old
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.verify import verify
from hpc_bnn.group import Group


def ingest_command(options: argparse.Namespace, ranks: Group) -> tuple[list[str], int]:
    """Collective: write a pack or append to it, or compare it with its checksums and source."""
    return _verify(options, ranks) if options.verify else _ingest(options, ranks)


def _ingest(options: argparse.Namespace, ranks: Group) -> tuple[list[str], int]:
    folder: Path = options.output

    def source() -> Catalogue:
        _refuse_dropped(options)
        refuse_old(Path(options.path).expanduser())
        if is_pack(options.path):
            raise ValueError(f"{options.path}: is a pack already; give the files it was made of")
        return _catalogue(
            options.path,
            variables=options.variables or (),
            levels=options.levels,
            static=options.static,
            member=options.member,
            start=options.start,
            end=options.end,
        )

    files = ranks.on_first(source, name="catalogue")
    header = ingest(files, folder, member=options.member, ranks=ranks)
    steps = sum(header.years.values())
    line = (
        f"{folder}: {steps} steps of {len(header.channels)} channels in {len(header.years)} years, "
        f"{steps * header.stride / 1e6:.1f} MB; use it as data.path={folder}"
    )
    return [line], 0


def _verify(options: argparse.Namespace, ranks: Group) -> tuple[list[str], int]:
    folder: Path = options.output

    def source() -> Catalogue | None:
        header = read_header(folder)
        if Path(options.path).resolve() == folder.resolve():
            return None
        return _catalogue(
            options.path,
            variables=[channel.name for channel in header.channels],
            levels=(),
            static=[channel.name for channel in header.static],
            member=header.member,
        )

    files = ranks.on_first(source, name="catalogue")
    wrong = verify(folder, source=files, ranks=ranks)
    with_what = "its checksums" if files is None else f"its checksums and {options.path}"
    lines = [f"- {one}" for one in wrong]
    lines.append(f"{folder}: compared with {with_what}: {len(wrong)} differences")
    return lines, 1 if wrong else 0


def _refuse_dropped(options: argparse.Namespace) -> None:
    """Refuse what version 0.1 wrote besides."""
    if options.dtype != "float32":
        raise ValueError(f"--dtype {options.dtype}: a pack holds float32 only; leave it out")
    if options.format != "cache":
        raise ValueError(
            f"--format {options.format}: a pack has one format, plain numbers; leave it out (for "
            "netCDF of one step a chunk: nccopy -c time/1 FILE NEW_FILE)"
        )


def _catalogue(
    path: str,
    *,
    variables: Sequence[str],
    levels: Sequence[float],
    static: Sequence[str] | None,
    member: int | None,
    start: str | None = None,
    end: str | None = None,
) -> Catalogue:
    files = catalogue(path, variables=variables, levels=levels, static=static, member=member)
    if start is None and end is None:
        return files
    return files.between(
        times.parse("0001-01-01" if start is None else start, end=False),
        times.parse("9999-12-31" if end is None else end, end=True),
    )
