"""What a run writes down of its steps and validations: ``metrics.jsonl``, by world rank 0 only."""

from collections.abc import Mapping
from typing import Any

from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import Metrics, is_validated


class Record:
    """The rows of one run; ranks other than the first write nothing."""

    def __init__(self, world: World, folder: RunFolder) -> None:
        self._world, self._folder, self._path = world, folder, folder.metrics
        self._metrics: Metrics | None = None
        self._is_open = False

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
                return Metrics(self._path, first_step=first_step)

            self._metrics = self._world.all_ranks.together(begin, name="metrics")
            self._is_open = True

    def has_validation(self, done: int) -> bool:
        """Collective: tell whether the scores after so many steps are on file."""
        return self._world.all_ranks.on_first(
            lambda: is_validated(self._path, done - 1), name="metrics"
        )

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object; the rows must be open."""
        if self._metrics is not None:
            self._metrics.write(row)

    def flush(self) -> None:
        """Make all rows so far durable; call it before each checkpoint."""
        if self._metrics is not None:
            self._metrics.flush()

    def close(self) -> None:
        """End the rows."""
        if self._metrics is not None:
            self._metrics.close()
