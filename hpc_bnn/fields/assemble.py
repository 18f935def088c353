"""Makes the catalogue of a file, a folder or a pattern, and refuses what would give wrong numbers.

Only headers, times and a few fields are read, except where two files hold the same step, which must
then be equal.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.check import differing_files, range_problems
from hpc_bnn.fields.files import find_files, left_out, maker, read_headers
from hpc_bnn.fields.ingest.header import Header
from hpc_bnn.fields.ingest.survey import Survey, survey
from hpc_bnn.fields.merge import Merge
from hpc_bnn.fields.names import split_channel
from hpc_bnn.fields.selection import (
    available_channels,
    resolve_channels,
    resolve_static,
    static_fields,
)

logger = logging.getLogger(__name__)


def catalogue(
    path: str | Path,
    *,
    variables: Sequence[str] = (),
    levels: Sequence[float] = (),
    static: Sequence[str] | None = (),
    member: int | None = None,
    strict: bool = True,
) -> Catalogue:
    """Make the catalogue of the data files of a file name, a folder or a pattern.

    Parameters
    ----------
    variables
        Short names or aliases, or channels such as "z500"; everything where empty.
    levels
        Pressure levels in hPa of the variables that lie on levels.
    static
        Fields without time, or of which the first time is taken, such as "lsm"; None, or where
        nothing is named: see `static_fields`.
    member
        Of files with an ensemble.
    strict
        Raise on any problem; else leave the file out and list it in ``problems``.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    ValueError
        With every problem, each naming the file and what to do.
    """
    source = str(path)
    problems: list[str] = []
    notices: list[str] = []
    paths = find_files(path, problems)
    only = {split_channel(name)[0] for name in (*(variables or ()), *(static or ()))}
    only = only if variables else set()
    surveys = _surveys(paths, member, problems, notices, only)
    skipped = {name: why for one in surveys for name, why in one.skipped.items()}
    if surveys:
        available = available_channels(surveys)
        channels = resolve_channels(source, available, variables, levels, skipped)
        fixed = [resolve_static(source, available, name, skipped) for name in static or ()]
        merge = Merge(source, surveys, problems, notices)
        if static is None or not (variables or static):
            states = channels if variables else ()
            fixed = static_fields(source, merge.variables, available, states, notices)
            if not variables:
                fixed = [key for key in fixed if key in channels]
                channels = [key for key in channels if key not in fixed]
        result = merge.catalogue(channels, fixed, skipped)
        problems += range_problems(result)
        problems += differing_files(result)
    if (problems and strict) or not surveys:
        raise ValueError("\n".join(problems))
    for notice in result.notices:
        logger.info("%s", notice)
    return replace(result, problems=tuple(problems))


def _headers(paths: Sequence[str], problems: list[str], notices: list[str]) -> list[Header]:
    """Read the headers of all files but those that this package wrote beside them."""
    headers: list[Header] = []
    for path in paths:
        try:
            headers += read_headers(path)
        except (ValueError, OSError) as error:
            problems.append(str(error))
    makers = {header.path: maker(header) for header in headers}
    out = left_out(makers)
    notices += [f"{path}: made by hpc-bnn {makers[path]}: left out" for path in sorted(out)]
    return [header for header in headers if header.path not in out]


def _surveys(
    paths: Sequence[str],
    member: int | None,
    problems: list[str],
    notices: list[str],
    only: Collection[str],
) -> list[Survey]:
    """Survey every file; those that cannot be used become problems."""
    surveys: list[Survey] = []
    for header in _headers(paths, problems, notices):
        path = header.path
        try:
            one = survey(header, member=member, only=only)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        if surveys and not one.grid.same(surveys[0].grid):
            problems.append(
                f"{path} and {surveys[0].file.path} have different grids: {one.grid}; and "
                f"{surveys[0].grid}; expected one grid: read them apart or interpolate one"
            )
            continue
        surveys.append(one)
        notices += [f"{path}: {notice}" for notice in one.notices]
    return surveys
