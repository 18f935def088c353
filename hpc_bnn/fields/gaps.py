"""Points of a state that never have a value, such as those of a sea surface temperature on land.

They are found once, in the first training state, and every state must miss exactly them: so a score
knows which points count without asking each state.

Letters: C channels, H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Gaps:
    """Tell which points of a state have no value, at any time.

    absent: (C, H, W).
    time: of the first training state, which told, as text.
    """

    absent: NDArray[np.bool_]
    time: str

    @cached_property
    def any(self) -> bool:
        """Whether there are such points."""
        return bool(self.absent.any())

    def fill(self, state: NDArray[np.float32]) -> tuple[int, str] | None:
        """Put 0, the mean, where the normalised `state` (C, H, W) has no value; return the first
        channel that misses other points, and how many, or None.
        """
        gone = np.isnan(state)
        if not np.array_equal(gone, self.absent):
            at = int(np.flatnonzero((gone != self.absent).any(axis=(1, 2)))[0])
            more = int((gone[at] & ~self.absent[at]).sum())
            less = int((self.absent[at] & ~gone[at]).sum())
            return at, (
                f"{more} points have no value that have one, {less} have one that have none, in "
                f"the first training state ({self.time})"
            )
        state[gone] = 0.0
        return None
