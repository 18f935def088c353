"""What the files of a repacked folder have in common, whatever their format: they are written and
checked in portions, each on the disk as a whole before it is noted as done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

P = TypeVar("P")


class Output(Protocol[P]):
    """The files of one format, open in this process.

    P, a portion: a `Block` of one large file, or a file (`Target`).
    """

    def close(self) -> None:
        """Close what is open."""

    def write(self, at: int) -> int:
        """Write the portion at a position; return its checksum once it is on the disk.

        Raises
        ------
        OSError
            If the disk is full or fails.
        """

    def crc32(self, at: int) -> int | None:
        """Compute the checksum of a portion as it lies there, None where it is gone."""

    def compared(self) -> Sequence[P]:
        """Cut the source into what is compared with the files, one after the other."""

    def differs(self, portion: P) -> bool:
        """Tell whether the files hold anything else than the source."""

    def name(self, portion: P) -> str:
        """Name a portion and its file."""

    def write_static(self, fields: NDArray[np.float32]) -> int:
        """Write the static fields (F, H, W); return their checksum."""

    def static_crc32(self) -> int | None:
        """Compute the checksum of the static fields, None where they are gone."""

    def static_differs(self, fields: NDArray[np.float32]) -> bool:
        """Tell whether the files hold other static fields."""
