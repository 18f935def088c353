"""The commands of ``hpc-bnn data``: each returns the lines to print and the exit status.

``data request``, which needs the settings of a run, is ``hpc_bnn.fields.request``.
"""

import argparse
from collections.abc import Callable, Sequence

from hpc_bnn.cli.ingest_command import ingest_command
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.check import sample_problems
from hpc_bnn.fields.files import data_files, find_files
from hpc_bnn.fields.pack import verify
from hpc_bnn.fields.pack.automatic import Request, pack_of
from hpc_bnn.fields.pack.header import is_pack
from hpc_bnn.fields.pack.pack import Pack, open_pack
from hpc_bnn.fields.report import defects, describe
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import require_writable, write_statistics
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.group import Group

Answer = tuple[list[str], int]


def _check(options: argparse.Namespace, ranks: Group) -> Answer:
    """Collective: list what files or a pack hold, and every defect, of files also of a sample of
    the values.
    """
    if ranks.on_first(lambda: is_pack(options.path), name="path"):
        pack = ranks.on_first(lambda: _open(options), name="pack")
        problems = verify.defects(pack)
        lines = [*verify.describe(pack), *_remarks(problems, len(pack.problems))]
        return lines, int(bool(pack.problems))
    files = ranks.on_first(lambda: _catalogue(options), name="catalogue")
    bad, read = ranks.on_first(lambda: sample_problems(files), name="values")
    if not files.channels and not files.static:
        bad.append(f"{files.source}: has no channel that can be used")
    unusable = len(files.problems) + len(bad)
    lines = [describe(files), read, *_remarks([*bad, *defects(files)], unusable)]
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


def _catalogue(options: argparse.Namespace) -> Catalogue:
    return catalogue(
        options.path,
        variables=options.variables,
        levels=options.levels,
        member=options.member,
        strict=False,
    )


def _open(options: argparse.Namespace) -> Pack:
    return open_pack(
        options.path,
        variables=options.variables or (),
        levels=options.levels,
        member=options.member,
        stale=options.stale,
        strict=False,
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
    "data ingest": ingest_command,
    "data repack": ingest_command,  # as version 0.1 called it
    "data toy": _toy,
}
