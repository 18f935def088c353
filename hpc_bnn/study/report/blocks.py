"""What a page is made of: sections of blocks. The template knows each kind of block by ``kind``.

Texts are plain text; the template escapes them. Only ``chart`` makes markup, of escaped parts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup

from hpc_bnn.verify.vocabulary import OF_DATA, Score

DASH = "-"  # what is not known
EXPONENTS = str.maketrans(
    "-0123456789",
    "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079",
)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    is_number: aligned to the right. is_best: the best of its row. look: ``better`` or ``worse``,
    which the text says, too. hint: what is seen when one points at it.
    """

    text: str
    is_number: bool = False
    is_best: bool = False
    look: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a head; every row is as long as the head."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Charts side by side that share a legend: names with the classes of their curves."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[Markup]
    legend: Mapping[str, str] = field(default_factory=dict)
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI."""

    kind: ClassVar[str] = "picture"
    uri: str
    caption: str


@dataclass(frozen=True)
class Slider:
    """Pictures of which one is seen, chosen by a slider over ``labels``."""

    kind: ClassVar[str] = "slider"
    title: str
    axis: str
    labels: Sequence[str]
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Notes:
    """Sentences that a reader must see."""

    kind: ClassVar[str] = "notes"
    texts: Sequence[str]


@dataclass(frozen=True)
class Details:
    """A long text that opens when it is asked for."""

    kind: ClassVar[str] = "details"
    title: str
    text: str


Block = Table | Charts | Picture | Slider | Notes | Details


@dataclass(frozen=True)
class Section:
    """A part of a page; one without blocks is left out.

    name: its place in the address.
    """

    name: str
    title: str
    blocks: Sequence[Block]


def number(value: object) -> float | None:
    """Return a finite number, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < float("inf") else None


def numbers(values: object) -> list[float | None]:
    """Return a list of numbers, empty for anything else."""
    return [number(value) for value in values] if isinstance(values, list | tuple) else []


def mapping(value: object) -> dict[str, object]:
    """Return a dict with names, empty for anything else."""
    return {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def number_text(value: object, *, digits: int = 4) -> str:
    """Return a number as text with so many digits, a whole one with all, a dash for none."""
    held = number(value)
    if held is None:
        return DASH
    if isinstance(value, int) or abs(held) >= 10**digits:
        return f"{held:.0f}"
    return f"{held:#.{digits}g}".removesuffix(".")


def number_cell(value: object, *, digits: int = 4, is_best: bool = False) -> Cell:
    """Return the cell of a number."""
    return Cell(number_text(value, digits=digits), is_number=True, is_best=is_best)


def unit_text(units: str) -> str:
    """Write the powers of units, as in "m2 s-2", as exponents."""
    return re.sub(r"(?<=[A-Za-z])-?[0-9]+", lambda power: power[0].translate(EXPONENTS), units)


def score_title(score: Score, of_data: str) -> str:
    """Return what a score is called, the value that it should have, and its unit."""
    unit = unit_text(of_data) if score.unit == OF_DATA else score.unit
    wish = f", nominal {score.nominal:g}" if score.better == "nearer" else ""
    return f"{score.label}{wish}{f' [{unit}]' if unit else ''}"


def size_text(count: object) -> str:
    """Return a number of bytes in MiB or GiB."""
    held = number(count)
    if held is None:
        return DASH
    return f"{held / 2**20:.1f} MiB" if held < 2**30 else f"{held / 2**30:.2f} GiB"
