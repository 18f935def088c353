"""ERA5 as a data set, read from its pack: from the state of the atmosphere to its tendency."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hpc_bnn.data.source import Fields, Source
from hpc_bnn.fields import times
from hpc_bnn.fields.gaps import Gaps
from hpc_bnn.fields.normalisation import kept_normalisation, normalisation, positive
from hpc_bnn.fields.outline import source_without_files
from hpc_bnn.fields.pack.automatic import LIMIT_GIB, Request, pack_of
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.fields.pack.reader import Missing, PackReader, read
from hpc_bnn.fields.pack.same_files import require_same_files
from hpc_bnn.fields.statistics import within_range
from hpc_bnn.fields.statistics_file import read_statistics
from hpc_bnn.fields.windows import CALENDAR_CHANNELS, Atmosphere, ForecastWindows, window_steps
from hpc_bnn.group import ALONE, Group

logger = logging.getLogger(__name__)


OF_FILES = {"path", "train", "validation", "test", "statistics", "missing", "member", "stale"}
OF_FILES |= {"pack", "pack_limit"}


def era5(
    path: str | Path,
    *,
    variables: Sequence[str],
    step_hours: int,
    train: tuple[str, str],
    validation: tuple[str, str],
    test: tuple[str, str],
    levels: Sequence[float] = (),
    history: int = 1,
    statistics: str | Path | None = None,
    static: Sequence[str] = (),
    calendar: bool = True,
    missing: Literal["error", "mean"] = "error",
    member: int | None = None,
    rollout: int = 1,
    stale: Literal["error", "allow"] = "error",
    pack: str | Path | None = None,
    pack_limit: float = LIMIT_GIB,
    ranks: Group = ALONE,
    kept: Mapping[str, Any] | None = None,
) -> Source:
    """Collective: offer ERA5 files as windows x (h C + F, H, W) -> y (C, H, W), float32 (see
    windows.py).

    Files are packed once by all ranks together, and so are statistics computed.

    Parameters
    ----------
    path
        A pack of `hpc-bnn data ingest`, or a data file, a folder, or a pattern.
    variables
        Short names or aliases ("t2m", "2m_temperature", "z"), or channels ("z500").
    step_hours
        From a state to its target, and between the states of the history.
    train, validation, test
        First and last time, both included; a date means its whole day. A window lies in its range
        with history and target.
    levels
        Pressure levels in hPa of the variables that lie on levels.
    history
        Number h of states in the input.
    statistics
        File of `hpc-bnn data statistics`; computed from the training range if None.
    static
        Fields without time, such as "lsm" and "z" at the surface; standardised.
    calendar
        Add sine and cosine of the time of day and of the year.
    missing
        Refuse missing values, or leave out the points that never have one ("mean", which is what
        they hold in inputs): see `Fields.present`. Static fields are filled with the mean.
    member
        Of ensemble files.
    rollout
        Most steps of the forecasts that are trained on: so many targets of every training window
        lie in its range, however many of them are read.
    stale
        "allow" uses a pack whose source changed since, with a warning; else it is refused.
    pack
        Folder that files are packed into; if None, one beside them, such as era5.pack for era5/.
    pack_limit
        GiB; a larger pack is refused with the command that makes it.
    ranks
        Those that read the data set together.
    kept
        What a trained run keeps of its fields, where it is to see others: these are normalised by
        the same, and only `test` is read of them.

    Raises
    ------
    FileNotFoundError, ValueError
        For files or settings that cannot be used; names file, variable, time and what to do.
    """
    request = Request(path, variables, levels, static, member, stale, pack, pack_limit)
    archive = pack_of(request, ranks)
    require_same_files(archive, ranks)
    given = ranks.on_first(
        lambda: None if statistics is None else read_statistics(statistics), name="statistics"
    )
    if step_hours < 1 or history < 1 or rollout < 1:
        raise ValueError(
            f"{archive.source}: step_hours = {step_hours}, history = {history}, rollout = "
            f"{rollout}: expected at least 1 each"
        )
    if missing not in ("error", "mean"):
        raise ValueError(f"{archive.source}: missing = '{missing}': expected 'error' or 'mean'")
    parts = {"train": train, "validation": validation, "test": test}
    ranges = _ranges(archive, parts)
    if kept is not None:
        ranges = dict.fromkeys(parts, ranges["test"])
    steps = {name: _windows(archive, name, ranges[name], step_hours, history) for name in parts}
    train_times = archive.times[steps["train"][:, history - 1]]
    first_state = int(steps["train"][0, 0])
    if rollout > 1 and kept is None:
        steps["train"] = _windows(
            archive, "train", ranges["train"], step_hours, history, rollout=rollout
        )
    keep: Missing = "keep" if missing == "mean" else "declared"
    if kept is None:
        made = normalisation(archive, given, train, step_hours, ranks, keep)
        std = positive(archive, made.std, "", ranks)
        tendency_std = positive(archive, made.tendency_std, "tendency of ", ranks)
        state_mean = made.mean
    else:
        state_mean, std, tendency_std = kept_normalisation(archive, kept["fields"])

    def constant() -> tuple[NDArray[np.float32], Gaps | None]:
        gaps = _gaps(archive, first_state) if missing == "mean" else None
        return _standardised(archive, PackReader(archive).static(), missing), gaps

    constants, gaps = ranks.on_first(constant, name="static fields")
    reader = PackReader(archive, mean=state_mean, std=std, gaps=gaps)
    atmosphere = Atmosphere(reader, constants, use_calendar=calendar)
    ratio = (std / tendency_std).astype(np.float32)
    examples = {
        name: ForecastWindows(atmosphere, torch.from_numpy(rows), history, ratio)
        for name, rows in steps.items()
    }
    channels, rows, columns = archive.shape
    fields = Fields(
        channels=archive.channels,
        latitude=torch.from_numpy(archive.grid.latitude.copy()),
        longitude=torch.from_numpy(archive.grid.longitude.copy()),
        periodic=archive.grid.periodic,
        history=history,
        forcing=tuple(c.name for c in archive.static) + (CALENDAR_CHANNELS if calendar else ()),
        state_mean=torch.from_numpy(state_mean.copy()),
        state_std=torch.from_numpy(std),
        tendency_std=torch.from_numpy(tendency_std),
        step_hours=step_hours,
        train_times=torch.from_numpy(train_times),
        test_times=examples["test"].times,
        record=atmosphere,
        present=torch.from_numpy(~gaps.absent) if gaps is not None and gaps.any else None,
        files=archive.files(),
    )
    return Source(
        name=f"era5({archive.source})",
        task="regression",
        train=examples["train"],
        validation=examples["validation"],
        test=examples["test"],
        input_shape=(history * channels + atmosphere.forcing_channels, rows, columns),
        output_shape=(channels, rows, columns),
        scale=None,
        fields=fields,
    )


def _ranges(pack: Pack, parts: dict[str, tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Parse the ranges of the parts and require that they do not overlap."""
    ranges: dict[str, tuple[int, int]] = {}
    for name, given in parts.items():
        if isinstance(given, str) or len(given) != 2:
            raise ValueError(f"data.{name} = {given!r}: expected [first, last], such as two dates")
        try:
            ranges[name] = (times.parse(given[0], end=False), times.parse(given[1], end=True))
        except ValueError as error:
            raise ValueError(f"data.{name}: {error}") from error
        if ranges[name][0] > ranges[name][1]:
            raise ValueError(f"data.{name} = {list(given)}: the first time lies behind the last")
    for a, b in combinations(ranges, 2):
        if ranges[a][0] <= ranges[b][1] and ranges[b][0] <= ranges[a][1]:
            raise ValueError(
                f"data.{a} = {list(parts[a])} and data.{b} = {list(parts[b])} overlap: expected "
                "ranges without common times"
            )
    return ranges


def _windows(
    pack: Pack,
    name: str,
    span: tuple[int, int],
    step_hours: int,
    history: int,
    *,
    rollout: int = 1,
) -> NDArray[np.int64]:
    """Find the windows of one part and require that there are any."""
    inside = within_range(pack, *span)
    steps = window_steps(
        pack.times,
        pack.present() & inside,
        step_hours=step_hours,
        history=history,
        rollout=rollout,
    )
    if not len(steps):
        there = pack.times[pack.present()]
        gaps = np.diff(there)
        covers = (
            f"{times.text(int(there[0]))} to {times.text(int(there[-1]))}" if len(there) else ""
        )
        wanted = (
            f"a complete step after {step_hours} h"
            if rollout == 1
            else f"{rollout} complete steps {step_hours} h apart (train.rollout)"
        )
        raise ValueError(
            f"{pack.source}: no window for data.{name}: {int(inside.sum())} times lie in its "
            f"range, and none is followed by {wanted} with a history "
            f"of {history}; the files have {len(there)} complete times"
            f"{', ' + covers if covers else ''}"
            f"{f', {int(gaps.min()) / 3600:g} h apart' if len(gaps) else ''}; choose another range "
            "or step_hours, or add files"
        )
    return steps


def _gaps(pack: Pack, first: int) -> Gaps:
    """Find the points without a value in the first training state; each channel must have some."""
    state = np.empty(pack.shape, np.float32)
    read(pack, first, state)
    absent = np.isnan(state)
    for channel in np.flatnonzero(absent.all(axis=(1, 2))).tolist():
        raise ValueError(
            f"{pack.place(channel, first)}: no point has a value; expected some in the first "
            "training state: leave the variable out, or choose another data.train"
        )
    for name, points in zip(pack.names, absent, strict=True):
        if points.any():
            logger.info(
                "%s: '%s' has no value at %d of %d points, which do not count",
                pack.source,
                name,
                points.sum(),
                points.size,
            )
    return Gaps(absent, times.text(int(pack.times[first])))


def _standardised(pack: Pack, static: NDArray[np.float32], missing: str) -> NDArray[np.float32]:
    """Standardise static fields over the grid; missing values as for the states."""
    out = np.empty_like(static)
    for target, field, channel in zip(out, static.astype(np.float64), pack.static, strict=True):
        gone = int(np.isnan(field).sum())
        if gone and (missing == "error" or gone == field.size):
            raise ValueError(
                f"{pack.source}: '{channel.name}', a static field, has {gone} of {field.size} "
                "values missing; expected none: set missing = 'mean' or leave it out"
            )
        std = float(np.nanstd(field)) or 1.0
        target[...] = np.nan_to_num((field - np.nanmean(field)) / std, nan=0.0)
    return out


def era5_without_files(rows: int, columns: int, **options: Any) -> Source:
    """Return the shapes that `era5` would have with the same options on a global grid."""
    wanted = {name: value for name, value in options.items() if name not in OF_FILES}
    return source_without_files(rows, columns, **wanted)
