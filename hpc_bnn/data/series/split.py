"""Where a series is cut into training, validation and test: by shares, or by numbers of rows.

Two times cut the whole period, the same two for every series of a file; with numbers of rows a
third one ends it. Rows of several series count together, in the order of their times.

Shape letters: T rows of all series.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class Split:
    """How many rows a window has, and where the parts end.

    history, horizon: rows of the inputs and of the targets of a window.
    fractions: shares of the rows for training, validation and test, of sum 1.
    rows: numbers of rows in place of shares; those behind them are left out.
    """

    history: int
    horizon: int
    fractions: tuple[float, float, float]
    rows: tuple[int, int, int] | None = None

    def check(self, name: str) -> None:
        """Raise ValueError for a setting out of range."""
        for setting, value in (("history", self.history), ("horizon", self.horizon)):
            require_positive(name, setting, value)
        fractions = self.fractions
        if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(
                f"{name}: fractions = {fractions}: expected three positive shares of the rows for "
                "training, validation and test with sum 1, such as (0.7, 0.1, 0.2)"
            )
        if self.rows is not None and (len(self.rows) != 3 or min(self.rows) < 1):
            raise ValueError(
                f"{name}: rows = {self.rows}: expected three numbers of rows, for training, "
                "validation and test, such as (8640, 2880, 2880)"
            )

    def __str__(self) -> str:
        """Name what the settings say."""
        return f"{self.fractions}" if self.rows is None else f"rows = {self.rows}"

    def row_cuts(self, total: int) -> tuple[int, int, int]:
        """Compute how many of ``total`` rows lie before the first cut, the second and the end."""
        if self.rows is not None:
            training, validation, test = self.rows
            return training, training + validation, training + validation + test
        first, second, _ = self.fractions
        return round(first * total), round((first + second) * total), total

    def cuts(self, name: str, times: Tensor) -> tuple[int, int, int]:
        """Compute the first time of validation, of test and behind the end from all times (T,).

        Raises
        ------
        ValueError
            If there are fewer rows than ``rows`` asks for.
        """
        places = self.row_cuts(len(times))
        if places[-1] > len(times):
            raise ValueError(
                f"{name}: rows = {self.rows}: {places[-1]} rows in all, but there are "
                f"{len(times)}; give fewer, or fractions in their place"
            )
        ordered = times.sort().values
        behind_all = ordered[-1:] + 1
        first, second, end = torch.cat([ordered, behind_all])[list(places)]
        return int(first), int(second), int(end)

    def needs(self) -> str:
        """Say what gives every part at least one window."""
        history, horizon = self.history, self.horizon
        if self.rows is not None:
            return f"{history + horizon} rows for training and {horizon} for each other part"
        return f"{rows_needed(history, horizon, self.fractions)} rows in one series"


def rows_needed(history: int, horizon: int, fractions: tuple[float, float, float]) -> int:
    """Compute from how many rows on one series, cut by shares, gives every part one window."""
    smallest = (history + horizon, horizon, horizon)
    split = Split(history, horizon, fractions)

    def enough(rows: int) -> bool:
        first, second, end = split.row_cuts(rows)
        return first >= smallest[0] and min(second - first, end - second) >= horizon

    # Rounding costs a part at most one row, so this is enough; fewer may do, with exceptions.
    rows = max(
        math.ceil((need + 1) / fraction) for need, fraction in zip(smallest, fractions, strict=True)
    )
    while enough(rows - 1):
        rows -= 1
    return rows


def require_positive(name: str, setting: str, value: int) -> None:
    """Raise ValueError unless a number of rows is at least 1."""
    if value < 1:
        raise ValueError(f"{name}: {setting} = {value}: expected a number of rows, at least 1")
