"""What checkpoints cost, and how often that suggests to write one.

With a checkpoint of C seconds after every T seconds of work, and a failure every M seconds on
average, the share C / T goes to checkpoints and T / (2 M) to work that is lost and done again;
their sum is least at

    T = sqrt(2 C M)

(Young 1974, doi:10.1145/361147.361115; Daly 2006, doi:10.1016/j.future.2004.11.016, who takes T = M
where C > M / 2). Nodes fail independently: M of a job on n nodes is that of one node over n.
"""

import logging
import math
from statistics import median
from typing import Any

log = logging.getLogger(__name__)

HOUR_S = 3600.0
MINUTE_S = 60.0


def best_interval_s(cost_s: float, mtbf_s: float) -> float:
    """Return the seconds of work between two checkpoints, or snapshots, that lose the least time.

    cost_s: for which one stops the steps. mtbf_s: between two failures of what is lost with it.
    """
    return min(math.sqrt(2 * cost_s * mtbf_s), mtbf_s)


def lost_share(interval_s: float, cost_s: float, mtbf_s: float) -> float:
    """Return the share of the time that goes to checkpoints and to work done twice."""
    return cost_s / interval_s + interval_s / (2 * mtbf_s)


class CheckpointCost:
    """The seconds and bytes of the checkpoints of a process.

    Parameters
    ----------
    mtbf_hours
        Hours between two failures of one node, on average.
    """

    def __init__(self, *, mtbf_hours: float, nodes: int) -> None:
        self._mtbf_hours, self._nodes = mtbf_hours, nodes
        self._seconds: list[float] = []
        self._bytes: int | None = None

    def add(self, seconds: float, size: int) -> None:
        """Count a checkpoint, for which the steps stood still so long."""
        self._seconds.append(seconds)
        self._bytes = size

    @property
    def measured(self) -> int:
        """Checkpoints that were counted."""
        return len(self._seconds)

    def figures(self, *, step_s: float) -> dict[str, Any]:
        """Return what ``summary.json`` holds: the median cost, the size of the last checkpoint, how
        many were measured, the hours between failures of the job, and the interval that these
        suggest in seconds and in steps; None for what is not known.

        step_s: of a step with its wait for data.
        """
        cost = median(self._seconds) if self._seconds else None
        mtbf_hours = self._mtbf_hours / self._nodes
        interval = None if cost is None else best_interval_s(cost, mtbf_hours * HOUR_S)
        every = None
        if interval is not None and math.isfinite(step_s) and step_s > 0:
            every = max(1, round(interval / step_s))
        return {
            "cost_s": cost,
            "bytes": self._bytes,
            "measured": self.measured,
            "mtbf_hours": mtbf_hours,
            "suggested_interval_s": interval,
            "suggested_every": every,
        }

    def log(self, *, step_s: float, every: int) -> None:
        """Log the figures, where they suggest something."""
        text = self.describe(step_s=step_s, every=every)
        if text:
            log.info("%s", text)

    def describe(self, *, step_s: float, every: int) -> str:
        """Return the figures as a sentence, "" where they suggest nothing.

        every: ``train.checkpoint_every``.
        """
        figures = self.figures(step_s=step_s)
        if figures["suggested_every"] is None:
            return ""
        job = f", one of {self._nodes} every {figures['mtbf_hours']:.4g} h" * (self._nodes > 1)
        interval = figures["suggested_interval_s"]
        length = f"{interval:.0f} s" if interval < MINUTE_S else f"{interval / MINUTE_S:.0f} min"
        return (
            f"a checkpoint takes {figures['cost_s']:.2f} s ({figures['bytes'] / 1e6:.1f} MB): if a "
            f"node fails every {self._mtbf_hours:.4g} h (train.mtbf_hours){job}, the least time is "
            f"lost with one every {figures['suggested_every']} steps ({length}); "
            f"train.checkpoint_every = {every}"
        )
