"""Which of two runs forecasts better, and where: for each variable and lead time, over the start
times that both were scored on.

Scores are paired: the difference of a start is that of two forecasts of the same weather. Its mean
has an interval by blocks of starts (``bootstrap``). The interval of the RMSE follows from that of
the mean squared error, by

    rmse_2 - rmse_1 = (mse_2 - mse_1) / (rmse_1 + rmse_2).

Of many cells some differ by chance: of 100 without a difference, 5 have p < 0.05. So a cell counts
as significant by the rule of Benjamini and Hochberg (1995, doi:10.1111/j.2517-6161.1995.tb02031.x;
for weather maps Wilks 2016, doi:10.1175/BAMS-D-15-00267.1), over all cells of a comparison: of
those that it names, at most the share ``rate`` has no difference, on average. It holds for cells
that resemble their neighbours, as these do (Benjamini and Yekutieli 2001,
doi:10.1214/aos/1013699998).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

import torch
from torch import Tensor

from hpc_bnn.verify.bootstrap import Difference, paired_difference
from hpc_bnn.verify.start_scores import StartScores

FEWEST_STARTS = 8
RATE = 0.05
SAME_TRUTH = 1e-4  # largest relative difference of the scores of persistence; files hold float64
SHOWN = 4  # names in a note

T = TypeVar("T", float, str)
Verdict = Literal["better", "worse", "no difference", "unknown"]


@dataclass(frozen=True)
class Cell:
    """One score of one variable at one lead time.

    first, second: of both runs over the common starts. difference: second - first, None where
    nothing can be said of it. verdict: on the second run.
    """

    score: str
    name: str
    lead_hours: float
    first: float
    second: float
    difference: Difference | None = None
    verdict: Verdict = "unknown"

    @property
    def change(self) -> float:
        """The difference as a share of the first run's score."""
        return (self.second - self.first) / self.first if self.first else math.nan


@dataclass(frozen=True)
class Comparison:
    """What is known of two runs.

    scores: by which they are compared, of ``rmse``, ``crps``, ``fair_crps``. notes: what a reader
    must know, such as start times that only one of them has.
    """

    starts: int
    scores: tuple[str, ...]
    names: tuple[str, ...]
    lead_hours: tuple[float, ...]
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]

    def at(self, score: str, name: str) -> tuple[Cell, ...]:
        """Return the cells of a score and variable, by lead time."""
        return tuple(c for c in self.cells if (c.score, c.name) == (score, name))

    def count(self, verdict: Verdict) -> int:
        """Return how many cells have a verdict."""
        return sum(cell.verdict == verdict for cell in self.cells)


def compare(
    first: StartScores, second: StartScores, runs: tuple[str, str], *, rate: float = RATE
) -> Comparison:
    """Compare the second run with the first.

    runs: how notes and errors call them. rate: of false discoveries among significant cells.

    Raises
    ------
    ValueError
        If they have no start time, lead time or variable in common.
    """
    rows = _common_starts(first, second, runs)
    leads = _common("lead time", first.lead_hours, second.lead_hours, runs)
    names = _common("variable", first.names, second.names, runs)
    notes = [
        *_of_starts(first, second, rows, runs),
        *_left_out("lead times [h]", first.lead_hours, second.lead_hours, runs),
        *_left_out("variables", first.names, second.names, runs),
    ]
    units = [dict(zip(one.names, one.units, strict=True)) for one in (first, second)]
    mixed = [name for name in names if units[0][name] != units[1][name]]
    if mixed:
        notes.append(f"In other units in each run, so left out: {', '.join(map(str, mixed))}.")
        names = [name for name in names if name not in mixed]
    crps = "crps"
    if first.members != second.members:
        fair = min(first.members, second.members) > 1
        crps = "fair_crps" if fair else "crps"
        notes.append(
            f"{runs[0]} has {first.members} members, {runs[1]} {second.members}: "
            + ("the fair CRPS is compared, which" if fair else "the CRPS gains from members, and")
            + (" does not depend on their number; " if fair else " ")
            + "the RMSE of a mean gains from more of them."
        )
    pairs = _Pairs(first, second, rows, leads, names)
    notes += pairs.other_truth(runs)
    cells = _judged(pairs.cells(("mse", crps)), rate)
    return Comparison(
        len(rows[0]), ("rmse", crps), tuple(map(str, names)), tuple(map(float, leads)),
        tuple(cells), tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Pairs:
    """Two runs and the places in each of what both have."""

    first: StartScores
    second: StartScores
    rows: tuple[Tensor, Tensor]
    leads: Sequence[float]
    names: Sequence[str]

    def series(self, score: str, lead: float, name: str) -> tuple[Tensor, Tensor]:
        """Return the scores (N,) of both over the common starts."""
        one, other = (
            held.values[score][rows, held.lead_hours.index(lead), held.names.index(name)]
            for held, rows in zip((self.first, self.second), self.rows, strict=True)
        )
        return one, other

    def cells(self, scores: Sequence[str]) -> list[Cell]:
        return [
            _cell(score, name, lead, *self.series(score, lead, name))
            for score in scores
            for name in self.names
            for lead in self.leads
        ]

    def other_truth(self, runs: tuple[str, str]) -> list[str]:
        """Say where persistence, which is no run's, has other scores: the truths differ."""
        largest, where = 0.0, ""
        for name in self.names:
            for lead in self.leads:
                one, other = self.series("persistence_mse", lead, name)
                scale = torch.maximum(one.abs(), other.abs()).clamp_min(1e-300)
                off = float(((one - other).abs() / scale).nan_to_num(0).max())
                if off > largest:
                    largest, where = off, f"{name} at {lead:g} h"
        if largest <= SAME_TRUTH:
            return []
        text = (
            f"{runs[0]} and {runs[1]} were scored against different truths: the squared errors of "
            f"persistence differ by up to {100 * largest:.2g} % ({where}): other data, another "
            "grid or area. A difference between the runs may be one between the truths."
        )
        return [text]


def _cell(score: str, name: str, lead: float, one: Tensor, other: Tensor) -> Cell:
    first, second = float(one.mean()), float(other.mean())
    difference = None
    if len(one) >= FEWEST_STARTS and bool((one + other).isfinite().all()):
        difference = paired_difference(other, one)
    if score != "mse":
        return Cell(score, name, lead, first, second, difference)
    roots = math.sqrt(first), math.sqrt(second)
    total = roots[0] + roots[1]
    if difference is not None and total > 0:
        mean, low, high = (
            value / total for value in (difference.mean, difference.low, difference.high)
        )
        difference = difference._replace(mean=mean, low=low, high=high)
    return Cell("rmse", name, lead, *roots, difference)


def _judged(cells: Sequence[Cell], rate: float) -> list[Cell]:
    """Return the cells with their verdicts."""
    values = sorted(c.difference.p_value for c in cells if c.difference is not None)
    passed = [p for k, p in enumerate(values, start=1) if p <= rate * k / len(values)]
    limit = max(passed, default=-1.0)

    def verdict(difference: Difference | None) -> Verdict:
        if difference is None:
            return "unknown"
        if difference.p_value > limit or difference.mean == 0:
            return "no difference"
        return "better" if difference.mean < 0 else "worse"

    return [replace(cell, verdict=verdict(cell.difference)) for cell in cells]


def _common_starts(
    first: StartScores, second: StartScores, runs: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    """Return the places of the common starts in each run."""
    rows = (
        torch.isin(first.starts, second.starts).nonzero()[:, 0],
        torch.isin(second.starts, first.starts).nonzero()[:, 0],
    )
    if not len(rows[0]):
        spans = "; ".join(
            f"{run}: {len(one.starts)} from {_time(one.starts[0])} to {_time(one.starts[-1])}"
            for run, one in zip(runs, (first, second), strict=True)
        )
        raise ValueError(
            f"{runs[0]} and {runs[1]} have no start time in common ({spans}): they cannot be "
            "paired; evaluate both on the same data with the same evaluation.starts"
        )
    return rows


def _common(what: str, one: Sequence[T], other: Sequence[T], runs: tuple[str, str]) -> list[T]:
    both = [each for each in one if each in other]
    if not both:
        spans = (f"{run}: {_listed(held)}" for run, held in zip(runs, (one, other), strict=True))
        raise ValueError(f"{runs[0]} and {runs[1]} have no {what} in common ({'; '.join(spans)})")
    return both


def _of_starts(
    first: StartScores, second: StartScores, rows: tuple[Tensor, Tensor], runs: tuple[str, str]
) -> list[str]:
    count, notes = len(rows[0]), []
    sizes = (len(first.starts), len(second.starts))
    if sizes != (count, count):
        notes.append(
            f"Paired on the {count} start times that both have, of {sizes[0]} of {runs[0]} and "
            f"{sizes[1]} of {runs[1]}."
        )
    if count < FEWEST_STARTS:
        notes.append(
            f"{count} common start times say nothing about chance: at least {FEWEST_STARTS} are "
            "needed (evaluation.starts)."
        )
    steps = first.starts[rows[0]].diff()
    if count > 2 and int(steps.max()) > 1.5 * int(steps.min()):
        notes.append(
            f"The common start times are {int(steps.min()) / 3600:g} to "
            f"{int(steps.max()) / 3600:g} h apart: blocks of them are of different lengths."
        )
    return notes


def _left_out(
    what: str, one: Sequence[object], other: Sequence[object], runs: tuple[str, str]
) -> list[str]:
    texts = []
    for run, own, others in ((runs[0], one, other), (runs[1], other, one)):
        only = [each for each in own if each not in others]
        if only:
            texts.append(f"Only {run} has the {what} {_listed(only)}: left out.")
    return texts


def _listed(values: Sequence[object]) -> str:
    shown = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values[:SHOWN])
    return shown + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")


def _time(seconds: Tensor) -> str:
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M}"
