"""What settings ask of ERA5, without any file: channels for a download or for an estimate."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_bnn.data.source import FieldChannel, Fields, InMemory, Source
from hpc_bnn.fields.calendar_fields import CALENDAR_CHANNELS
from hpc_bnn.fields.names import Variable, channel_name, find, split_channel

Wanted = tuple[Variable, float | None]  # a variable, and its level in hPa


def wanted_channels(variables: Sequence[str], levels: Sequence[float] = ()) -> list[Wanted]:
    """Return the channels of `variables`, on every level those that lie on levels.

    Raises
    ------
    ValueError
        For a name that no ERA5 variable has, one that is no state, or missing levels.
    """
    found: list[Wanted] = []
    for name in variables:
        short, level = split_channel(name)
        variable = find(short)
        if variable is None:
            raise ValueError(
                f"data.variables: {name!r} is no ERA5 variable that is known here; expected names "
                "such as t2m, z or z500"
            )
        if variable.accumulated:
            raise ValueError(
                f"data.variables: {name!r} is a sum over an interval, no state of the atmosphere; "
                "leave it out"
            )
        if level is None and variable.on_levels and not levels:
            raise ValueError(
                f"data.variables: {name!r} lies on pressure levels; give data.levels, in hPa, or "
                f"a channel such as {short}500"
            )
        if level is not None or not variable.on_levels:
            found.append((variable, level))
        else:
            found += [(variable, float(level)) for level in levels]
    return found


def wanted_static(static: Sequence[str]) -> list[Variable]:
    """Return static fields, which lie at the surface: "z" is the orography there.

    Raises
    ------
    ValueError
        For a name that no ERA5 variable has.
    """
    found = [(name, find(name)) for name in static]
    unknown = [name for name, variable in found if variable is None]
    if unknown:
        raise ValueError(f"data.static: {unknown[0]!r} is no ERA5 variable that is known here")
    return [variable for _, variable in found if variable is not None]


def source_without_files(
    rows: int,
    columns: int,
    *,
    variables: Sequence[str],
    step_hours: int,
    levels: Sequence[float] = (),
    history: int = 1,
    static: Sequence[str] = (),
    calendar: bool = True,
) -> Source:
    """Return a data set of one empty example, with the shapes that `era5` would have on a global
    grid.
    """
    channels = [
        FieldChannel(
            channel_name(variable.short, level),
            variable.units,
            variable.standard_name,
            variable.long_name,
            level,
            variable.vector,
        )
        for variable, level in wanted_channels(variables, levels)
    ]
    forcing = tuple(variable.short for variable in wanted_static(static))
    forcing += CALENDAR_CHANNELS if calendar else ()
    nothing = InMemory(
        torch.zeros(1, history * len(channels) + len(forcing), rows, columns),
        torch.zeros(1, len(channels), rows, columns),
    )
    edge = 90.0 if rows % 2 else 90.0 - 90.0 / rows  # an odd number of rows includes the poles
    ones = torch.ones(len(channels), dtype=torch.float64)
    none = torch.zeros(0, dtype=torch.int64)
    fields = Fields(
        channels=tuple(channels),
        latitude=torch.linspace(edge, -edge, rows, dtype=torch.float64),
        longitude=torch.arange(columns, dtype=torch.float64) * 360 / columns,
        periodic=True,
        history=history,
        forcing=forcing,
        state_mean=ones - 1,
        state_std=ones,
        tendency_std=ones,
        step_hours=step_hours,
        train_times=none,
        test_times=none,
        record=_NoRecord(),
    )
    return Source(
        name="era5 without files",
        task="regression",
        train=nothing,
        validation=nothing,
        test=nothing,
        input_shape=tuple(nothing.x.shape[1:]),
        output_shape=tuple(nothing.y.shape[1:]),
        scale=None,
        fields=fields,
    )


class _NoRecord:
    times = torch.zeros(0, dtype=torch.int64)

    def states(self, indices: torch.Tensor) -> torch.Tensor:
        raise ValueError("era5 without files: there are no states to read")

    def forcing(self, seconds: torch.Tensor) -> torch.Tensor:
        raise ValueError("era5 without files: there is no forcing to read")
