"""What the header of a netCDF file says, whichever format it has: plain records, no open file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL = 1 << 22  # coordinate variables of at most so many values are read with the header


@dataclass(frozen=True)
class VariableHeader:
    """Describe one variable.

    dtype: of numpy with byte order, such as ">i2"; "str" for text.
    chunks: None where the variable is contiguous.
    compression: filters in words, empty where there are none.
    key: by which its format reads it, where a file has several of that name; else the name.
    """

    name: str
    dtype: str
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    attributes: dict[str, Any]
    chunks: tuple[int, ...] | None = None
    compression: str = ""
    key: str = ""

    def text(self, attribute: str) -> str:
        """Return an attribute as text, empty where there is none."""
        value = self.attributes.get(attribute, "")
        return value.strip() if isinstance(value, str) else str(value)


@dataclass(frozen=True, eq=False)
class Header:
    """Describe one file.

    format: key in ``files.FORMATS``; flavour: of it, in words for people, such as "netCDF-3".
    coordinates: values of every small variable with at most one dimension, and of small times with
        more; text as numpy strings; fill values are not masked.
    records: netCDF-3 only: the byte where records begin, and the bytes of each.
    """

    path: str
    format: str
    flavour: str
    size: int
    dimensions: dict[str, int]
    variables: dict[str, VariableHeader]
    attributes: dict[str, Any]
    coordinates: dict[str, NDArray[Any]]
    records: tuple[int, int] = (0, 0)


def is_coordinate(variable: VariableHeader) -> bool:
    """Tell whether the values of a variable are read with the header."""
    few = int(np.prod(variable.shape, dtype=np.int64)) <= SMALL
    is_time = len(variable.shape) == 2 and " since " in variable.text("units")
    return few and (len(variable.shape) <= 1 or is_time)


def join_characters(characters: NDArray[Any]) -> NDArray[Any]:
    """Join the characters of the last axis to strings."""
    joined = np.ascontiguousarray(characters).view(f"S{characters.shape[-1]}")[..., 0]
    return np.char.decode(joined, "utf-8", "replace")
