"""The commands of ``hpc-bnn data``: each returns the lines to print and the exit status.

``data request``, which needs the settings of a run, is ``hpc_bnn.fields.request``.
"""

import argparse
from collections.abc import Callable

from hpc_bnn.cli.repack_command import repack_command, verify_command
from hpc_bnn.data.ranks import Ranks
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.check import sample_problems
from hpc_bnn.fields.report import defects, describe
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import require_writable, write_statistics
from hpc_bnn.fields.toy_atmosphere import write_toy

Answer = tuple[list[str], int]


def _check(options: argparse.Namespace, ranks: Ranks) -> Answer:
    """Collective: list what files hold, and every defect, also of a sample of the values."""
    found = ranks.on_first(lambda: _catalogue(options, strict=False), name="catalogue")
    bad, read = ranks.on_first(lambda: sample_problems(found), name="values")
    if not found.channels and not found.static:
        bad.append(f"{found.source}: has no channel that can be used")
    wrong = [*bad, *defects(found)]
    unusable = len(found.problems) + len(bad)
    count = f"{len(wrong)} remarks, {unusable} of them make files unusable"
    return [describe(found), read, *(f"- {one}" for one in wrong), count], 1 if unusable else 0


def _statistics(options: argparse.Namespace, ranks: Ranks) -> Answer:
    """Collective: compute and write the statistics of channels."""
    found = ranks.on_first(lambda: _catalogue(options, strict=True), name="catalogue")
    sources = sorted({part.file.path for part in found.parts})
    ranks.on_first(lambda: require_writable(options.output, sources), name="output")
    made = statistics(
        found,
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


def _catalogue(options: argparse.Namespace, *, strict: bool) -> Catalogue:
    return catalogue(
        options.path,
        variables=options.variables,
        levels=options.levels,
        member=options.member,
        stale=options.stale,
        strict=strict,
    )


def _repack(options: argparse.Namespace, ranks: Ranks) -> Answer:
    """Collective: repack files, or verify what was repacked."""
    return verify_command(options, ranks) if options.verify else repack_command(options, ranks)


def _toy(options: argparse.Namespace, ranks: Ranks) -> Answer:
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


DATA: dict[str, Callable[[argparse.Namespace, Ranks], Answer]] = {
    "data check": _check,
    "data statistics": _statistics,
    "data repack": _repack,
    "data toy": _toy,
}
