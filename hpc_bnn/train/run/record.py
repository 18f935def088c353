"""What a run writes down of its steps and validations: ``metrics.jsonl``, by world rank 0 only, and
on every rank how long they took.
"""

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.durations import Durations
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import Metrics, is_validated
from hpc_bnn.train.run.track import Tracker, start_trackers
from hpc_bnn.train.step.step_report import Report


class Record:
    """The rows of one run; ranks other than the first write nothing.

    track: what else the rows go to, by name (``TRACKERS``).

    A GPU ends a step after the host: there, its row is written with that of the next step, or
    before anything else is, and nothing waits for its times.

    Attributes
    ----------
    durations
        Of the steps of this process.
    loss
        Of the last one; None before.
    """

    def __init__(self, world: World, folder: RunFolder, *, track: Sequence[str] = ()) -> None:
        self._track, self._trackers = track, list[Tracker]()
        self._world, self._folder, self._path = world, folder, folder.metrics
        self._metrics: Metrics | None = None
        self._is_open = False
        self.durations = Durations()
        self.loss: float | None = None
        self._held: deque[tuple[Report, dict[str, Any]]] = deque()
        self._lag = 1 if world.device.type == "cuda" else 0

    def open(self, first_step: int) -> None:
        """Collective: begin the rows of this job, unless that was done; what lies after its
        checkpoint is cut off.

        Until then the file tells how many steps the job before it had made.

        Raises
        ------
        LockError
            If the folder is no longer this job's; ``RankError`` on the other ranks.
        """
        if not self._is_open:

            def begin() -> Metrics | None:
                if not self._world.is_first:
                    return None
                self._folder.require_own()  # what it cuts off may be a successor's
                self._trackers = start_trackers(
                    self._track,
                    self._folder.path,
                    first_step=first_step,
                    settings=self._folder.config.read_text(encoding="utf-8") if self._track else "",
                )
                return Metrics(self._path, first_step=first_step)

            self._metrics = self._world.all_ranks.together(begin, name="metrics")
            self._is_open = True

    def has_validation(self, done: int) -> bool:
        """Collective: tell whether the scores after so many steps are on file."""
        return self._world.all_ranks.on_first(
            lambda: is_validated(self._path, done - 1), name="metrics"
        )

    def step(self, report: Report, **facts: Any) -> None:
        """Take up a step; ``facts`` are what ``Report.row`` wants. The rows must be open."""
        self.loss = report.loss
        self._held.append((report, facts))
        self._take_up(self._lag)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object; the rows must be open."""
        self._take_up(0)
        self._put(row)

    def flush(self) -> None:
        """Make all rows so far durable; call it before each checkpoint and the summary."""
        self._take_up(0)
        if self._metrics is not None:
            self._metrics.flush()
        for tracker in self._trackers:
            tracker.flush()

    def write_held(self) -> None:
        """Write the rows that wait for the times of a GPU."""
        self._take_up(0)

    def sync(self) -> None:
        """Make the rows that were written durable; any thread may call it."""
        if self._metrics is not None:
            self._metrics.sync()

    def close(self) -> None:
        """End the rows."""
        with contextlib.suppress(RuntimeError):  # where the device failed, it tells no times
            self._take_up(0)
        if self._metrics is not None:
            self._metrics.close()
        for tracker in self._trackers:
            tracker.close()

    def _take_up(self, lag: int) -> None:
        """Write the rows of all steps but the last ``lag``."""
        while len(self._held) > lag:
            report, facts = self._held.popleft()
            self.durations.add(report.phases_s, data_wait_s=facts["data_wait_s"])
            if self._metrics is not None:
                self._put(report.row(**facts))

    def _put(self, row: Mapping[str, Any]) -> None:
        if self._metrics is not None:
            self._metrics.write(row)
        for tracker in self._trackers:
            tracker.write(row)
