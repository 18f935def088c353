"""The validations of a run: their scores on file, which of them was the best, and whether a better
one is still to be waited for. All of that follows from the scores on file, so a resumed run decides
as the uninterrupted one.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpc_bnn.config import Settings
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import StepProgress, read_metrics
from hpc_bnn.train.run.record import Record
from hpc_bnn.train.run.validation import validate
from hpc_bnn.train.step.step import Step
from hpc_bnn.verify.ranking import JUDGED, best_of, decisive

log = logging.getLogger(__name__)

PREFIX = "validation_"


@dataclass
class Course:
    """The scores of a run so far, by the steps that were made.

    score: what is judged by; "": to be found out.
    """

    score: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, done: int, scores: Mapping[str, Any]) -> None:
        """Take up a validation; None stands for what is no number."""
        self.score = self.score or decisive(scores)
        if self.score not in scores:
            judged = [name for name in JUDGED if name in scores]
            raise ValueError(
                f"train.judge_by = {self.score!r}: no score of this validation; expected one of "
                f"{', '.join(judged) or 'none: leave out train.keep_best and train.patience'}"
            )
        value = scores[self.score]
        self.steps.append(done)
        self.values.append(float("nan") if value is None else float(value))

    @property
    def best(self) -> int | None:
        """The place of the best validation; None where none has a number."""
        return best_of(self.score, self.values)

    def is_over(self, patience: int) -> bool:
        """Tell whether so many validations in a row were not better than the best before them."""
        best = self.best
        waited = len(self.values) - (0 if best is None else best + 1)
        return 0 < patience <= waited

    def describe(self) -> str:
        """Return the newest value and the best, in words."""
        text = f"{self.score} {self.values[-1]:.5g}"
        if self.best is None or self.best == len(self.values) - 1:
            return f"{text}, the best so far"
        return f"{text}, best {self.values[self.best]:.5g} after step {self.steps[self.best]}"

    def summary(self) -> dict[str, Any]:
        """Return what ``summary.json`` holds of the best."""
        if self.best is None:
            return {}
        at = self.best
        return {"score": self.score, "value": self.values[at], "step": self.steps[at]}


class Validations:
    """Validates a run and remembers; every rank holds the same."""

    def __init__(
        self, settings: Settings, world: World, folder: RunFolder, parts: Parts, record: Record
    ) -> None:
        self._settings, self._world, self._folder = settings, world, folder
        self._parts, self._record = parts, record
        self.course = Course(settings.train.judge_by)

    @property
    def _judges(self) -> bool:
        return self._settings.train.keep_best or self._settings.train.patience > 0

    def begin(self, first: int) -> None:
        """Collective: take up the scores that an earlier job recorded of the steps before
        ``first``.
        """
        rows = self._world.all_ranks.on_first(
            lambda: [
                row
                for row in read_metrics(self._folder.metrics)
                if row["step"] < first and any(key.startswith(PREFIX) for key in row)
            ],
            name="validations",
        )
        for row in rows:
            scores = {key.removeprefix(PREFIX): value for key, value in row.items()}
            self._add(int(row["step"]) + 1, scores)

    def _add(self, done: int, scores: Mapping[str, Any]) -> None:
        if self._judges or decisive(scores):
            self.course.add(done, scores)

    @property
    def is_over(self) -> bool:
        """Whether ``train.patience`` ends the run."""
        return self._judges and self.course.is_over(self._settings.train.patience)

    def run(
        self,
        done: int,
        step: Step,
        *,
        epoch: float,
        record: bool,
        interrupt: Callable[[], None],
        save_best: Callable[[], None],
        progress: StepProgress,
    ) -> dict[str, float]:
        """Collective: validate after so many steps, record and judge the scores.

        record: False: they were recorded by an earlier job. save_best: called where they are the
        best so far, before they are on file: a job that is killed in between does it again.
        """
        with step.averaged():
            scores = validate(self._settings, self._world, self._parts, interrupt=interrupt)
        if not record:
            return scores
        # The values of world rank 0 decide on all ranks.
        self._add(done, self._world.all_ranks.broadcast(scores, name="scores"))
        if self._settings.train.keep_best and self.course.best == len(self.course.values) - 1:
            save_best()
        self._record.open(done)
        row = {f"{PREFIX}{key}": value for key, value in scores.items()}
        self._record.write({"step": done - 1, "epoch": epoch, **row})
        if self.course.values:
            progress.validated(done, self.course.describe())
        return scores
