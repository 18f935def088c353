"""Fields in memory as a data set offers them: every number of a forecast can be made by hand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_bnn.data.source import FieldChannel, Fields, InMemory, Source

STEP_HOURS = 6
STEP_S = STEP_HOURS * 3600
START_S = 978_307_200  # 2001-01-01T00:00, from `date -ud 2001-01-01 +%s`
CHANNELS, ROWS, COLUMNS = 2, 3, 4
FORCING = 1  # the hour since START_S


class Record:
    """States and forcing in memory: a ``FieldRecord``."""

    def __init__(self, times: Tensor, states: Tensor) -> None:
        self.times, self._states = times, states

    def states(self, indices: Tensor) -> Tensor:
        return self._states[indices].clone()

    def forcing(self, seconds: Tensor) -> Tensor:
        hours = (seconds - START_S).float() / 3600
        return hours[:, None, None, None].expand(-1, FORCING, *self._states.shape[2:])


def field_source(
    *,
    history: int = 1,
    steps: Sequence[int] = range(12),
    periodic: bool = True,
    vector: tuple[bool, ...] = (False, True),
    rows: int = ROWS,
    columns: int = COLUMNS,
    present: Tensor | None = None,
) -> Source:
    """Return a source whose states are at ``steps`` times STEP_HOURS after START_S, 0 where not
    ``present`` (C, H, W).
    """
    times = START_S + STEP_S * torch.tensor(list(steps))
    generator = torch.Generator().manual_seed(1)
    channels = len(vector)
    states = torch.randn(len(times), channels, rows, columns, generator=generator)
    if present is not None:
        states *= present
    fields = Fields(
        channels=tuple(
            FieldChannel(name, "K", "", name, None, turns)
            for name, turns in zip(("a", "b", "c", "d"), vector, strict=False)
        ),
        latitude=torch.linspace(60, -40, rows, dtype=torch.float64),
        longitude=torch.arange(columns, dtype=torch.float64),
        periodic=periodic,
        history=history,
        forcing=("hour",),
        state_mean=torch.linspace(100, -5, channels, dtype=torch.float64),
        state_std=torch.linspace(8, 2, channels, dtype=torch.float64),
        tendency_std=torch.linspace(0.5, 4, channels, dtype=torch.float64),
        step_hours=STEP_HOURS,
        train_times=times[:-1],
        test_times=times[:-1],
        record=Record(times, states),
        present=present,
    )
    nothing = InMemory(torch.zeros(1, 1), torch.zeros(1, 1))
    return Source(
        name="fields",
        task="regression",
        train=nothing,
        validation=nothing,
        test=nothing,
        input_shape=(history * channels + FORCING, rows, columns),
        output_shape=(channels, rows, columns),
        scale=None,
        fields=fields,
    )
