"""Read the numbers of a column of a CSV file, and never a thousand times too small or too large.

``1.000`` is one or a thousand. A column is read with a decimal point where some number of it shows
that: ``0.5``, ``12.25``, ``1500.000`` or ``1500`` are not written with points between groups of
three digits. It is refused where all its points could be such, and either it also holds whole
numbers below 1000 without a point (970, 1.000) or the delimiter is not the comma, which such files
need for decimals. The setting ``decimal`` says it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

# What stands for a missing number, in any case; ENTSO-E: "n/e" (not expected), "-", "N/A".
MISSING = (
    *("", "-", "--", "?", ".", "..", "n/e", "n/a", "n.a.", "na", "nan", "null", "none", "nil"),
    *("#n/a", "#na", "<na>", "\\n"),
)

Missing = Literal["refuse", "skip"]
Decimal = Literal[".", ","]

_GROUPED = re.compile(r"[1-9]\d{0,2}\.\d{3}")
_WITH = {
    ",": re.compile(r"[+-]?([1-9]\d{0,2}(\.\d{3})+|\d+)(,\d*)?(e[+-]?\d+)?", re.IGNORECASE),
    ".": re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", re.IGNORECASE),
}


class Numbers:
    """The numbers of one column, read row by row.

    Parameters
    ----------
    missing
        Refuse a missing number, or read it as NaN.
    decimal
        The decimal mark; the other one of "." and "," may stand between thousands. None: a point,
        where the column leaves no doubt.
    """

    def __init__(
        self, path: Path, column: str, *, missing: Missing, decimal: Decimal | None
    ) -> None:
        self._path, self._column, self._missing, self._decimal = path, column, missing, decimal
        self._clear = decimal is not None
        # The first of each kind: "1.000", and "970".
        self._grouped: tuple[int, str] | None = None
        self._whole: tuple[int, str] | None = None

    def read(self, line: int, text: str) -> float:
        """Parse a finite number; NaN for a missing one that may be skipped.

        Raises
        ------
        ValueError
            If it is none; names file, line, column and value.
        """
        absent = is_missing(text)
        if absent and self._missing == "skip":
            return math.nan
        value = self._parse(text)
        if math.isfinite(value):
            if not self._clear:
                self._weigh(line, text)
            return value
        if absent:
            what = "is empty" if not text.strip() else f"'{text}' stands for a missing number"
            remedy = (
                "fill it in, cut the file before it, or set missing: skip, which leaves out the "
                "windows that hold it"
            )
        else:
            what = f"'{text}' is not a finite number"
            remedy = "correct it, or write the file with a decimal point and no other separators"
            if self._decimal is None and ("," in text or text.count(".") > 1):
                remedy += " (or set decimal: ',' for 1.234,5 and decimal: '.' for 1,234.5)"
        mark = "comma" if self._decimal == "," else "point"
        raise ValueError(
            f"{self._path}: line {line}: column '{self._column}': {what}; "
            f"expected a number with a decimal {mark}; {remedy}"
        )

    def require_clear(self, delimiter: str) -> None:
        """Raise ValueError, once all are read, if points may stand between thousands."""
        if self._clear or self._grouped is None or (self._whole is None and delimiter == ","):
            return
        line, text = self._grouped
        beside = f" (line {self._whole[0]} holds '{self._whole[1]}')" if self._whole else ""
        raise ValueError(
            f"{self._path}: line {line}: column '{self._column}': '{text}' may be "
            f"{float(text):g} or {int(text.replace('.', ''))}{beside}: every point of the "
            "column stands before three digits; expected no doubt; set decimal: '.' if points are "
            "decimal points, decimal: ',' if they stand between thousands"
        )

    def _parse(self, text: str) -> float:
        if self._decimal is not None:
            stripped, other = text.strip(), "." if self._decimal == "," else ","
            if _WITH[self._decimal].fullmatch(stripped):
                text = stripped.replace(other, "").replace(",", ".")
            elif self._decimal == ",":
                return math.nan
        try:
            # Python's own 1_000 is no number of a CSV file.
            return math.nan if "_" in text else float(text)
        except ValueError:
            return math.nan

    def _weigh(self, line: int, text: str) -> None:
        digits = text.strip().lstrip("+-")
        if _GROUPED.fullmatch(digits):
            self._grouped = self._grouped or (line, text)
        elif digits.isdigit() and len(digits) <= 3:
            self._whole = self._whole or (line, text)
        else:
            self._clear = True


def is_missing(text: str) -> bool:
    """Say whether a field holds no number on purpose."""
    return text.strip().lower() in MISSING
