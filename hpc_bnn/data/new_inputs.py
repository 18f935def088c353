"""What a trained network is to predict that is in no split of its data set: the rows behind a
series, images in a folder.

A data set that knows any has a function ``NAME_new_inputs(source, asked, **options)`` beside its
own, with its options; ``asked`` is what a command asks for.

Shape letters: N examples, B batch, H history rows, P horizon rows, C channels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from hpc_bnn.data import DATA_SETS
from hpc_bnn.data.calendar import Feature
from hpc_bnn.data.source import Source


@dataclass(frozen=True)
class Asked:
    """What a command asks for.

    file: to read; None: that of the settings. start: time of the first row that is predicted; "":
    the one behind the last. resize: images of another size.
    """

    file: Path | None = None
    start: str = ""
    resize: bool = False


@dataclass(frozen=True, eq=False)
class NewInputs:
    """Offer inputs without targets.

    names: of the N examples: a series of the file, an image.
    read: gives the inputs x (B, ...) at indices (B,) int64.
    times: of series: those of each example's H history rows and P rows to predict, as a clock shows
        them.
    history, truth: of series, in physical units: (N, H, C), and (N, P, C) with NaN where the file
        does not know it.
    """

    names: tuple[str, ...]
    read: Callable[[Tensor], Tensor]
    times: tuple[tuple[datetime, ...], ...] = ()
    history: Tensor | None = None
    truth: Tensor | None = None


def new_inputs(name: str, source: Source, asked: Asked, options: dict[str, Any]) -> NewInputs:
    """Read what is to be predicted; name, options: those of the section data of the settings.

    Raises
    ------
    ValueError
        If the data set knows no other inputs than those of its splits.
    """
    module = importlib.import_module(DATA_SETS[name])
    function: Callable[..., NewInputs] | None = getattr(module, f"{name}_new_inputs", None)
    if function is None:
        raise ValueError(
            f"data.name = {name!r}: it can read its splits only; score these with "
            "hpc-bnn evaluate, or use hb.load(RUN).predict in a script"
        )
    return function(source, asked, **options)


def physical_inputs(
    source: Source, x: Tensor, times: Sequence[datetime], calendar: Sequence[Feature]
) -> Tensor:
    """Return the inputs (B, ...) of a network for what a script has in the units of the data.

    times: of the P rows to predict; calendar: what the inputs say of them.

    Raises
    ------
    ValueError
        If ``x`` is of another shape, or the calendar wants other times.
    """
    if source.fields is not None:
        raise ValueError(f"{source.name}: forecasts of fields start from files: hpc-bnn forecast")
    if source.window is not None and source.scale is not None:
        from hpc_bnn.data.series.ahead import windows_of

        return windows_of(source, x, times, calendar)
    if source.pixels is not None:
        x = source.pixels.inputs(x)
    if tuple(x.shape[1:]) != source.input_shape:
        raise ValueError(
            f"predict: x of shape {tuple(x.shape)}: expected (B, "
            f"{', '.join(map(str, source.input_shape))})"
        )
    return x
