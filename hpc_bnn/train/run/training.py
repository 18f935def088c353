"""One training run: its parts, its steps, and what is done between them."""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

from hpc_bnn.bayes.rows import Rows
from hpc_bnn.config import Settings
from hpc_bnn.data import Batches
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.auto_grid import AutoGrid
from hpc_bnn.train.run.build import Parts, step_settings
from hpc_bnn.train.run.checkpoint import Checkpoint
from hpc_bnn.train.run.checkpoint_cost import CheckpointCost
from hpc_bnn.train.run.energy import Energy, EnergyMeter
from hpc_bnn.train.run.feed import Feed, upload_to
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import StepProgress, log_start
from hpc_bnn.train.run.node_snapshots import NodeSnapshots
from hpc_bnn.train.run.profile import Profile
from hpc_bnn.train.run.record import Record
from hpc_bnn.train.run.restarts import ResumePoint, log_restart, resume_run
from hpc_bnn.train.run.snapshots import Snapshots
from hpc_bnn.train.run.stop import Interrupted, Stop, Unfinished
from hpc_bnn.train.run.summary import Course, read_summary, write_summary
from hpc_bnn.train.run.validation import diagnose
from hpc_bnn.train.run.validations import Validations
from hpc_bnn.train.step.schedule import rollout_steps, set_learning_rate
from hpc_bnn.train.step.step import Step
from hpc_bnn.train.step.step_report import Report

log = logging.getLogger(__name__)


class Training:
    """One training run: its parts and where it stands."""

    def __init__(
        self,
        settings: Settings,
        world: World,
        folder: RunFolder,
        parts: Parts,
        stop: Stop,
        began: float,
        auto: AutoGrid | None,
    ) -> None:
        self._settings, self._world, self._folder, self._parts = settings, world, folder, parts
        self._stop, self._began, self._auto = stop, began, auto
        self._resume_point: ResumePoint | None = None
        self._record = Record(world, folder, track=settings.train.track)
        self._has_weights = False  # those of ``train.start_from``
        self._validations = Validations(settings, world, folder, parts, self._record)
        self._saved = 0  # steps of the newest checkpoint
        self._first = 0  # steps made before this start
        training = settings.train
        self._cost = CheckpointCost(mtbf_hours=training.mtbf_hours, nodes=world.num_nodes)
        self._batches = Batches(
            parts.source.train,
            batch_size=training.batch_size,
            world=world,
            seed=settings.seed,
            rollout=None if parts.unroll is None else self._rollout,
        )
        per_epoch = self._batches.steps_per_epoch
        agree(world.all_ranks, {"batches per epoch": per_epoch}, name="data")
        self._total = training.total_steps(per_epoch)
        parts.posterior.hold(world.grid.own_samples(settings.posterior.samples))
        parts.posterior.to(world.device)
        parts.loss.to(world.device)
        self._optimizer = parts.optimizer(training.lr)
        self._step = Step(
            parts.posterior,
            parts.loss,
            self._optimizer,
            world,
            step_settings(settings, parts),
        )
        self._snapshots = Snapshots(settings, world, folder, parts, self._optimizer, self._step.ema)
        self._nodes = NodeSnapshots(
            settings,
            world,
            folder,
            self._gathered,
            sync=self._record.sync,
            has_members=any(isinstance(each, Rows) for each in parts.posterior.saved().values()),
        )

    def start_from(self) -> None:
        """Collective: take the weights of ``train.start_from``, once."""
        given = self._settings.train.start_from
        if given and not self._has_weights:
            log.info("weights of %s", self._snapshots.start_from(Path(given)))
        self._has_weights = True

    def train(self, *, resume: bool) -> dict[str, Any]:
        world, training = self._world, self._settings.train
        per_epoch = self._batches.steps_per_epoch
        if resume:
            self._resume_point = resume_run(
                world, self._folder, self._snapshots, self._nodes, self._settings, per_epoch
            )
            self._step.step = self._saved = self._resume_point.step if self._resume_point else 0
        first = self._first = self._step.step
        self._stop.note_checkpoint(0.0, step=first)
        if first == 0:
            self.start_from()
        self._validations.begin(first)
        if first and self._validations.is_over:
            self._total = first
        finished = world.all_ranks.on_first(
            lambda: read_summary(self._folder.summary) if first >= self._total else None,
            name="summary",
        )
        if finished is not None:
            log.info("nothing left to do: %s is of a finished run", self._folder.summary)
            return finished
        steps = range(first, self._total)
        self._nodes.begin(first)
        log_start(world, self._settings, self._parts, steps=steps, steps_per_epoch=per_epoch)
        feed = Feed(self._batches, steps, upload=upload_to(world.device))
        progress = self._progress = StepProgress(
            total=self._total,
            first=first,
            log_every=training.log_every,
            is_first_rank=world.is_first,
        )
        profile = Profile(world, self._folder, steps=training.profile)
        validation: dict[str, float] = {}
        energy: Energy | None = None
        is_over = False
        meter = EnergyMeter(world.device, packages=world.node_rank == 0)
        try:
            if first == self._total:
                self._all_have_read()
            if first and self._validates_after(first):
                recorded = self._record.has_validation(first)
                if first == self._total or not recorded:  # a stop came in between
                    validation = self._validate(first, record=not recorded)
            for step in steps:
                lr = set_learning_rate(
                    self._optimizer, step, total_steps=self._total, chosen=training
                )
                began = time.perf_counter()
                x, y = next(feed)
                fetched = time.perf_counter()
                if step == first:
                    self._all_have_read()
                    self._stop.begin()
                with profile.step():
                    self._step(x, y)
                report = self._step.report
                assert report is not None
                energy = meter.read()
                if step == first:
                    log_restart(world, self._folder, self._resume_point, began=self._began)
                self._record.open(first)
                self._note(report, lr=lr, data_wait_s=fetched - began)
                done = step + 1
                progress.log(done, report.loss)
                # The first batch waits for files to be opened and caches to be filled.
                took = time.perf_counter() - (fetched if step == first else began)
                self._stop.note_step(took, is_first=step == first)
                # Asked before a validation: that may take longer than the time that is left.
                reason = self._stop.due(is_busy=self._nodes.is_busy)
                ends = bool(reason) or done == self._total
                if ends or self._stop.is_tight or _due(done, training.checkpoint_every):
                    self._save(done)
                self._nodes.after(done, is_busy=self._stop.is_busy, is_saved=self._saved == done)
                if reason:
                    raise Unfinished(reason, done=done, total=self._total)
                if self._validates_after(done):
                    validation = self._validate(done)
                if self._validations.is_over and done < self._total:
                    log.info("train.patience = %d: the run ends", training.patience)
                    self._save(done)
                    break
            self._record.flush()
            is_over = True
        except Unfinished:
            is_over = True  # its checkpoint is as new as any snapshot
            raise
        finally:
            self._nodes.close(is_over=is_over)
            feed.close()
            progress.close()
            self._record.close()
            profile.close()
        return write_summary(
            world,
            self._folder,
            self._settings,
            self._parts.posterior,
            Course(
                self._step.step,
                self._record.loss,
                self._record.durations,
                energy,
                feed.bytes_read,
                self._cost,
            ),
            validation=validation,
            validation_units=self._parts.source.score_units,
            best=self._validations.course.summary(),
            diagnostics=diagnose(world, self._parts),
            auto=self._auto,
        )

    def _all_have_read(self) -> None:
        """Collective: until here ranks may wait for one that reads its data, from now on no longer
        than ``train.stall_timeout``.
        """
        self._world.all_ranks.together(lambda: None, name="first batch")
        self._world.watchdog.resume()

    def _save(self, done: int) -> None:
        """Collective: write a checkpoint, unless the newest is of this step."""
        if self._saved != done:
            self._write_checkpoint(done)
            self._saved = done

    def _write_checkpoint(self, done: int, *, best: bool = False) -> None:
        began = time.perf_counter()
        self._record.flush()
        size = self._snapshots.save(done, steps_per_epoch=self._batches.steps_per_epoch, best=best)
        seconds = time.perf_counter() - began
        self._stop.note_checkpoint(seconds, step=0 if best else done)
        self._cost.add(seconds, size)
        if self._cost.measured == 1:
            self._cost.log(
                step_s=self._record.durations.mean(), every=self._settings.train.checkpoint_every
            )

    def _gathered(self, done: int) -> Checkpoint:
        """Collective over the sample axis where there are members: return the state of now, whose
        rows are written.
        """
        self._record.write_held()
        return self._snapshots.gathered(done, steps_per_epoch=self._batches.steps_per_epoch)

    def _validates_after(self, done: int) -> bool:
        return done == self._total or _due(done, self._settings.train.validate_every)

    def _validate(self, done: int, *, record: bool = True) -> dict[str, float]:
        """Collective: validate and record the scores; where a stop comes in between, there are
        none, but a checkpoint, from which the run validates again.
        """
        try:
            return self._validations.run(
                done,
                self._step,
                epoch=self._epoch(done),
                record=record,
                interrupt=self._stop.check,
                save_best=partial(self._write_checkpoint, done, best=True),
                progress=self._progress,
            )
        except Interrupted as reason:
            if done == self._first and done > 0 and self._world.is_first:
                self._warn_of_no_step(done)
            self._save(done)
            raise Unfinished(str(reason), done=done, total=self._total) from None

    def _warn_of_no_step(self, done: int) -> None:
        log.warning(
            "this start made no step: the validation after step %d did not end within its %.0f s, "
            "and begins anew in the next start; give the job more time or ranks%s",
            done,
            time.monotonic() - self._began,
            ", or raise train.validate_every" if done < self._total else "",
        )

    def _note(self, report: Report, *, lr: float, data_wait_s: float) -> None:
        rollout = self._rollout(report.step // self._batches.steps_per_epoch)
        self._record.step(
            report,
            epoch=self._epoch(report.step),
            lr=lr,
            rollout=rollout if self._parts.unroll else None,
            data_wait_s=data_wait_s,
        )

    def _epoch(self, step: int) -> float:
        return step / self._batches.steps_per_epoch

    def _rollout(self, epoch: int) -> int:
        return rollout_steps(epoch, self._settings.train.rollout)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
