"""A script that downloads exactly what settings need from the Copernicus Climate Data Store.

The download is the user's: it needs an account, its key and accepted licences.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpc_bnn.fields import times
from hpc_bnn.fields.names import Variable
from hpc_bnn.fields.selection import known_channels, known_static
from hpc_bnn.files import refuse_foreign, write_whole

USUAL_HOURS = 6

BEGINS = b'"""Download ERA5: '
SCRIPT = '''\
"""Download ERA5: {channels} channels, {first} to {last}, every {every} h, {degrees} degrees.

    pip install cdsapi        and a key: https://cds.climate.copernicus.eu/how-to-api
    python {name}

One file a month and kind; files that are there are not requested again. Then, in this order:
    hpc-bnn data check {quoted}
    hpc-bnn data ingest {quoted} -o {pack} {selection}
Runs then read data.path={pack}.
"""

from calendar import monthrange
from pathlib import Path

import cdsapi

FOLDER = Path("{folder}")
FIRST, LAST = ({first_year}, {first_month}), ({last_year}, {last_month})  # year, month
COMMON = {{
    "product_type": ["reanalysis"],
    "time": {hours},
    "grid": [{degrees}, {degrees}],
    "data_format": "netcdf",
    "download_format": "unarchived",
}}
REQUESTS = {{  # part of the file's name: data set, what is asked of it
{requests}
}}
STATIC = {static}


def fetch(client, dataset, request, target):
    if target.exists():
        return
    part = target.with_suffix(".part")
    client.retrieve(dataset, {{**COMMON, **request}}, str(part))
    part.rename(target)


FOLDER.mkdir(parents=True, exist_ok=True)
client = cdsapi.Client()
if STATIC:
    once = {{"year": ["2000"], "month": ["01"], "day": ["01"], "time": ["00:00"]}}
    fetch(
        client,
        "reanalysis-era5-single-levels",
        {{"variable": STATIC, **once}},
        FOLDER / "static.nc",
    )
year, month = FIRST
while (year, month) <= LAST:
    days = [f"{{day:02d}}" for day in range(1, monthrange(year, month)[1] + 1)]
    when = {{"year": [f"{{year}}"], "month": [f"{{month:02d}}"], "day": days}}
    for kind, (dataset, what) in REQUESTS.items():
        fetch(client, dataset, {{**what, **when}}, FOLDER / f"{{kind}}-{{year}}-{{month:02d}}.nc")
    year, month = (year + 1, 1) if month == 12 else (year, month + 1)
'''


def request_command(
    options: argparse.Namespace, name: str, asked: dict[str, Any]
) -> tuple[list[str], int]:
    """Return the script of ``hpc-bnn data request`` as lines, or write it and say where.

    name, asked: of the data set, and what the settings ask of it.

    Raises
    ------
    ValueError
        If the settings are of another data set than era5.
    """
    if name != "era5":
        raise ValueError(f"data.name = {name!r}: only era5 is downloaded")
    try:
        script = request_script(
            variables=asked["variables"],
            levels=asked.get("levels", ()),
            static=asked.get("static", ()),
            spans=[asked[part] for part in ("train", "validation", "test")],
            degrees=options.degrees,
            step_hours=asked["step_hours"],
            every_hours=options.every,
            folder=options.folder,
            name="request.py" if options.output is None else options.output.name,
        )
    except ValueError as error:
        origin = f"{options.config}{' with the command line' if options.overrides else ''}"
        raise ValueError(f"{origin}: {error}") from error
    if options.output is None:
        return [script], 0
    refuse_foreign(options.output, "download script", _is_script)
    write_whole(options.output, script.encode())
    return [f"{options.output}: run it with python; it needs cdsapi and a key"], 0


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(BEGINS)) == BEGINS


def request_script(
    *,
    variables: Sequence[str],
    levels: Sequence[float],
    static: Sequence[str],
    spans: Sequence[tuple[str, str]],
    degrees: float,
    step_hours: int,
    every_hours: int | None = None,
    folder: str,
    name: str = "request.py",
) -> str:
    """Return a Python script that uses cdsapi.

    spans: first and last time of each part of the data; whole months are requested.
    degrees: spacing of the grid.
    step_hours: from a state to its target. every_hours: between states; see `_hours_between`.
    folder: where the script puts the files. name: of the script itself.

    Raises
    ------
    ValueError
        For variables that are not known, or every_hours with which no state has a target.
    """
    every_hours = _hours_between(step_hours, every_hours)
    channels = known_channels(variables, levels)
    first = min(times.parse(str(span[0]), end=False) for span in spans)
    last = max(times.parse(str(span[1]), end=True) for span in spans)
    (first_year, first_month), (last_year, last_month) = _month(first), _month(last)
    return SCRIPT.format(
        channels=len(channels),
        first=times.text(first)[:10],
        last=times.text(last)[:10],
        every=every_hours,
        degrees=f"{degrees:g}",
        name=name,
        folder=Path(folder),
        quoted=shlex.quote(str(Path(folder))),
        pack=shlex.quote(f"{Path(folder)}.pack"),
        selection=_selection(variables, levels, static),
        first_year=first_year,
        first_month=first_month,
        last_year=last_year,
        last_month=last_month,
        hours=[f"{hour:02d}:00" for hour in range(0, 24, every_hours)],
        requests="\n".join(_requests(channels)),
        static=[_download_name(variable) for variable in known_static(static)],
    )


def _hours_between(step_hours: int, every_hours: int | None) -> int:
    """Return the hours between the states that are downloaded, the same on every day.

    A state lies exactly step_hours after another only where they divide step_hours. By default
    at most `USUAL_HOURS`: forecasts over a whole day then start at several times of day.
    """
    if step_hours < 1:
        raise ValueError(f"data.step_hours = {step_hours}: expected at least 1")
    fitting = [hours for hours in range(1, 25) if 24 % hours == 0 == step_hours % hours]
    if every_hours is None:
        return max(hours for hours in fitting if hours <= USUAL_HOURS)
    if every_hours not in fitting:
        raise ValueError(
            f"--every {every_hours}, data.step_hours = {step_hours}: no state lies {step_hours} h "
            f"after another on every day; expected {', '.join(map(str, fitting))}, which divide "
            "the day and data.step_hours; leave --every out, or set data.step_hours"
        )
    return every_hours


def _selection(variables: Sequence[str], levels: Sequence[float], static: Sequence[str]) -> str:
    """Return the options of `data ingest` for what is downloaded: static fields have a time too."""
    asked = {
        "--variables": variables,
        "--levels": [f"{level:g}" for level in levels],
        "--static": static,
    }
    return " ".join(f"{option} {','.join(names)}" for option, names in asked.items() if names)


def _requests(channels: Sequence[tuple[Variable, float | None]]) -> list[str]:
    """Return the entries of REQUESTS: surface variables, and for each set of levels the variables
    that are asked for on exactly these.
    """
    surface = [variable for variable, level in channels if level is None]
    on: dict[str, list[float]] = {}
    for variable, level in channels:
        if level is not None:
            on.setdefault(_download_name(variable), []).append(level)
    together: dict[tuple[float, ...], list[str]] = {}
    for name, on_levels in on.items():
        together.setdefault(tuple(sorted(set(on_levels))), []).append(name)
    lines = []
    if surface:
        names = list(dict.fromkeys(_download_name(variable) for variable in surface))
        lines.append(f'    "surface": ("reanalysis-era5-single-levels", {{"variable": {names}}}),')
    for number, (levels, names) in enumerate(together.items()):
        kind = "levels" if len(together) == 1 else f"levels{number + 1}"
        texts = [f"{level:g}" for level in levels]
        lines.append(
            f'    "{kind}": (\n        "reanalysis-era5-pressure-levels",\n'
            f'        {{"variable": {names}, "pressure_level": {texts}}},\n    ),'
        )
    return lines


def _download_name(variable: Variable) -> str:
    """Return the name that the data store uses in requests."""
    return variable.aliases[0]


def _month(seconds: int) -> tuple[int, int]:
    year, month = times.text(seconds)[:7].split("-")
    return int(year), int(month)
