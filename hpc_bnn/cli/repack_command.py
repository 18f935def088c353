"""`hpc-bnn data repack`: from its options to what it says and its exit status."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hpc_bnn.fields import times
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.cache.header import Header, read_header
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.verify import verify
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.group import Group


def repack_command(options: argparse.Namespace, ranks: Group) -> tuple[list[str], int]:
    """Collective: write a cache, or netCDF files."""
    source = ranks.on_first(
        lambda: _catalogue(
            options.path,
            variables=options.variables or (),
            levels=options.levels,
            static=options.static,
            member=options.member,
            start=options.start,
            end=options.end,
        ),
        name="catalogue",
    )
    made = repack(
        source,
        options.output,
        format=options.format,
        dtype=options.dtype,
        member=options.member,
        ranks=ranks,
    )
    return _told(options.output, made), 0


def verify_command(options: argparse.Namespace, ranks: Group) -> tuple[list[str], int]:
    """Collective: compare a cache with its checksums, and with the source where one is given."""
    folder: Path = options.output

    def source() -> Catalogue | None:
        if Path(options.path).resolve() == folder.resolve():
            return None
        request = read_header(folder).request
        return _catalogue(
            options.path,
            variables=[channel.name for channel in request.channels],
            levels=(),
            static=[channel.name for channel in request.static],
            member=request.member,
            start=times.text(request.times[0]),
            end=times.text(request.times[-1]),
        )

    found = ranks.on_first(source, name="catalogue")
    wrong = verify(folder, source=found, ranks=ranks)
    with_what = "its checksums" if found is None else f"its checksums and {options.path}"
    lines = [f"- {one}" for one in wrong]
    lines.append(f"{folder}: compared with {with_what}: {len(wrong)} differences")
    return lines, 1 if wrong else 0


def _catalogue(
    path: str,
    *,
    variables: Sequence[str],
    levels: Sequence[float],
    static: Sequence[str] | None,
    member: int | None,
    start: str | None,
    end: str | None,
) -> Catalogue:
    made = catalogue(path, variables=variables, levels=levels, static=static, member=member)
    if start is None and end is None:
        return made
    return made.between(
        times.parse("0001-01-01" if start is None else start, end=False),
        times.parse("9999-12-31" if end is None else end, end=True),
    )


def _told(folder: Path, header: Header) -> list[str]:
    """Describe a cache that was made, with its errors where values are rounded."""
    request = header.request
    kind = f"{len(request.targets)} netCDF files, " if request.format == "netcdf" else ""
    first = (
        f"{folder}: {len(request.times)} times of {len(request.channels)} channels as "
        f"{request.dtype}, {kind}{request.file_bytes / 1e6:.1f} MB; use it as data.path={folder}"
    )
    lines = [first]
    if request.dtype != "float32":
        lines += [
            f"  {channel.name:10s} error at most {error:10.4g} {channel.units}"
            for channel, error in zip(request.channels, header.scaling.error, strict=True)
        ]
    return lines
