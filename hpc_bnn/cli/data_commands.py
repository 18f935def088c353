"""The commands of ``hpc-bnn data``: each returns the lines to print and the exit status.

``data request``, which needs the settings of a run, is ``hpc_bnn.fields.request``.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from hpc_bnn.fields import times
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.check import sample_problems
from hpc_bnn.fields.files import data_files, find_files
from hpc_bnn.fields.pack.automatic import Request, pack_of
from hpc_bnn.fields.pack.header import is_pack, read_header, refuse_old
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.verify import verify
from hpc_bnn.fields.report import defects, describe, describe_pack, pack_defects
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import require_writable, write_statistics
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.group import Group

Answer = tuple[list[str], int]


def _check(options: argparse.Namespace, ranks: Group) -> Answer:
    """Collective: list what files or a pack hold, and every defect, of files also of a sample of
    the values.
    """
    variables, levels, stale = options.variables or (), options.levels, options.stale
    wanted = Request(options.path, variables, levels, member=options.member, stale=stale)
    if ranks.on_first(lambda: is_pack(options.path), name="path"):
        pack = ranks.on_first(lambda: wanted.open(options.path, strict=False), name="pack")
        lines = [*describe_pack(pack), *_remarks(pack_defects(pack), len(pack.problems))]
        return lines, int(bool(pack.problems))
    files = ranks.on_first(lambda: wanted.catalogue(strict=False), name="catalogue")
    bad, read = ranks.on_first(lambda: sample_problems(files), name="values")
    if not files.channels and not files.static:
        bad.append(f"{files.source}: has no channel that can be used")
    unusable = len(files.problems) + len(bad)
    lines = [*describe(files), read, *_remarks([*bad, *defects(files)], unusable)]
    return lines, int(unusable > 0)


def _remarks(problems: Sequence[str], unusable: int) -> list[str]:
    count = f"{len(problems)} remarks, {unusable} of them make files unusable"
    return [*(f"- {text}" for text in problems), count]


def _statistics(options: argparse.Namespace, ranks: Group) -> Answer:
    """Collective: compute and write the statistics of a pack; files are packed first, once."""
    request = Request(
        options.path,
        options.variables or (),
        options.levels,
        static=None,
        member=options.member,
        stale=options.stale,
        folder=options.pack,
    )

    def check_output() -> None:
        files = () if is_pack(options.path) else data_files(find_files(options.path))
        require_writable(options.output, files)

    ranks.on_first(check_output, name="output")
    pack = pack_of(request, ranks)
    sources = pack.files()
    made = statistics(
        pack,
        start=options.start,
        end=options.end,
        step_hours=options.step_hours,
        ranks=ranks,
    )
    ranks.on_first(
        lambda: write_statistics(options.output, made, sources=sources), name="statistics file"
    )
    head = f"{options.output}: {made.start} to {made.end}, tendencies over {made.step_hours} h"
    rows = [
        f"  {name:10s} mean {made.mean[i]:12.6g}  std {made.std[i]:10.4g}  "
        f"tendency std {made.tendency_std[i]:10.4g}  {units}"
        for i, (name, units) in enumerate(zip(made.channels, made.units, strict=True))
    ]
    return [head, *rows], 0


def _ingest(options: argparse.Namespace, ranks: Group) -> Answer:
    """Collective: write a pack or append to it, or compare it with its checksums and source."""
    if options.verify:
        return _verify(options, ranks)
    folder: Path = options.output

    def source() -> Catalogue:
        _refuse_dropped(options)
        refuse_old(Path(options.path).expanduser())
        if is_pack(options.path):
            raise ValueError(f"{options.path}: is a pack already; give the files it was made of")
        wanted = (options.variables or (), options.levels, options.static, options.member)
        files = Request(options.path, *wanted).catalogue()
        if options.start is None and options.end is None:
            return files
        return files.between(
            times.parse("0001-01-01" if options.start is None else options.start, end=False),
            times.parse("9999-12-31" if options.end is None else options.end, end=True),
        )

    files = ranks.on_first(source, name="catalogue")
    header = ingest(files, folder, member=options.member, ranks=ranks)
    steps = sum(header.years.values())
    line = (
        f"{folder}: {steps} steps of {len(header.channels)} channels in {len(header.years)} years, "
        f"{steps * header.stride / 1e6:.1f} MB; use it as data.path={folder}"
    )
    return [line], 0


def _verify(options: argparse.Namespace, ranks: Group) -> Answer:
    folder: Path = options.output

    def source() -> Catalogue | None:
        header = read_header(folder)
        if Path(options.path).resolve() == folder.resolve():
            return None
        names = [channel.name for channel in header.channels]
        static = [channel.name for channel in header.static]
        return Request(options.path, names, static=static, member=header.member).catalogue()

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


def _toy(options: argparse.Namespace, ranks: Group) -> Answer:
    """Collective: write a synthetic atmosphere."""
    written = ranks.on_first(
        lambda: write_toy(
            options.folder,
            years=options.years,
            rows=options.rows,
            columns=options.columns,
            step_hours=options.step_hours,
            levels=options.levels,
            seed=options.seed,
            format=options.format,
        ),
        name="toy atmosphere",
    )
    return [f"{options.folder}: {len(written)} files of a synthetic atmosphere"], 0


DATA: dict[str, Callable[[argparse.Namespace, Group], Answer]] = {
    "data check": _check,
    "data statistics": _statistics,
    "data ingest": _ingest,
    "data repack": _ingest,  # as version 0.1 called it
    "data toy": _toy,
}
