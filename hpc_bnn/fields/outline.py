"""ERA5 without its files: a data set of the shapes that settings ask for, for an estimate."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpc_bnn.data.source import FieldChannel, Fields, InMemory, Source
from hpc_bnn.fields.names import channel_name
from hpc_bnn.fields.selection import known_channels, known_static
from hpc_bnn.fields.windows import CALENDAR_CHANNELS


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
    """Return a data set of one empty example, of the shapes that ``era5`` has on a global grid."""
    channels = [
        FieldChannel(
            channel_name(variable.short, level),
            variable.units,
            variable.standard_name,
            variable.long_name,
            level,
            variable.vector,
        )
        for variable, level in known_channels(variables, levels)
    ]
    forcing = tuple(variable.short for variable in known_static(static))
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
