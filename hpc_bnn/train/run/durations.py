"""How long the steps of a process take, in memory that does not grow with their number.

Sums are those of all steps. Quantiles are exact for up to KEPT steps; of more, those of KEPT steps
that are drawn evenly from all so far, with a generator of its own (Vitter 1985, algorithm R,
doi:10.1145/3147.3165): the median is then one of the middle 3 % of all steps, the p90 one between
the 88.6 % and the 91.4 % quantile, both with probability 0.997.
"""

import math
import random
from collections.abc import Mapping
from statistics import median, quantiles

import torch

from hpc_bnn.train.step.phases import PHASES

WARMUP_STEPS = 2  # the first steps allocate memory and connect ranks
KEPT = 4096
DATA = "data"  # the wait for a batch, which is no part of a step
PARTS = (*PHASES, DATA)


class Durations:
    """Seconds by part of a step; without the first WARMUP_STEPS steps, where there are more.

    Attributes
    ----------
    count
        Steps that count.
    """

    def __init__(self) -> None:
        self.count, self._is_warm = 0, False
        self._sums = dict.fromkeys(PARTS, 0.0)
        self._rows = torch.zeros(0, len(PARTS), dtype=torch.float64)
        self._generator = random.Random(0)

    def add(self, phases_s: Mapping[str, float], *, data_wait_s: float) -> None:
        """Count a step."""
        if not self._is_warm and self.count == WARMUP_STEPS:
            self.count, self._is_warm = 0, True
            self._sums = dict.fromkeys(PARTS, 0.0)
        row = [*(phases_s[phase] for phase in PHASES), data_wait_s]
        for part, seconds in zip(PARTS, row, strict=True):
            self._sums[part] += seconds
        place, self.count = self.count, self.count + 1
        if place >= KEPT:
            place = self._generator.randrange(self.count)
        elif place >= len(self._rows):
            more = self._rows.new_zeros(min(KEPT, max(16, 2 * place)), len(PARTS))
            more[:place] = self._rows
            self._rows = more
        if place < KEPT:
            self._rows[place] = torch.tensor(row, dtype=torch.float64)

    def sum(self, *parts: str) -> float:
        """Return the seconds of all steps in some parts, of ``PARTS``."""
        return math.fsum(self._sums[part] for part in parts)

    def mean(self) -> float:
        """Return the mean of all steps with their waits for data, NaN where no step counts."""
        return self.sum(*PARTS) / self.count if self.count else math.nan

    def median(self, part: str) -> float:
        """Return the median of a part, NaN where no step counts."""
        seconds = self._kept()[:, PARTS.index(part)].tolist()
        return median(seconds) if seconds else math.nan

    def step_quantiles(self) -> tuple[float, float]:
        """Return median and p90 of the duration of a step without its wait for data, NaN where no
        step counts.
        """
        times = self._kept()[:, : len(PHASES)].sum(1).tolist()
        if len(times) < 2:
            return (times[0], times[0]) if times else (math.nan, math.nan)
        return median(times), quantiles(times, n=10, method="inclusive")[-1]

    def _kept(self) -> torch.Tensor:
        return self._rows[: min(self.count, KEPT)]
