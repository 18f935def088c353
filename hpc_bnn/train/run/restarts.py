"""Resuming a run, and what that cost: ``restarts.jsonl``, one object a restart."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_bnn.config import Settings
from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.config.yaml_text import parse
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import read_metrics
from hpc_bnn.train.run.snapshots import Snapshots
from hpc_bnn.train.step.schedule import scheduled

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """A run that goes on at ``step``, having lost so many steps that were made after it."""

    step: int
    lost_steps: int


def resume_run(
    world: World,
    folder: RunFolder,
    snapshots: Snapshots,
    settings: Settings,
    steps_per_epoch: int,
) -> ResumePoint | None:
    """Collective: restore the newest good checkpoint; None where the run has not made a step yet.

    A run that was killed before its first checkpoint goes on at step 0.
    """
    restored = snapshots.restore(to_train=True)
    step = 0 if restored is None else restored[1].step
    lost = world.all_ranks.on_first(lambda: lost_steps(folder.metrics, step), name="metrics")
    if restored is not None:
        path, state = restored
        log.info("resumed from %s at step %d", path, step)
        before = Settings.model_validate(parse(state.settings)).train.total_steps(steps_per_epoch)
        now = settings.train.total_steps(steps_per_epoch)
        if before != now:
            log.info("%s", describe_growth(settings.train, step, before=before, now=now))
        return ResumePoint(step, lost)
    log.info("no checkpoint in %s yet: starting from the beginning", folder.checkpoints)
    return ResumePoint(0, lost) if lost else None


def describe_growth(training: TrainSettings, step: int, *, before: int, now: int) -> str:
    """Return what it means for the rate of the next ``step`` that a run has other steps than it was
    begun for.
    """
    was, rate = (scheduled(step, total_steps=total, chosen=training) for total in (before, now))
    return (
        f"{now} steps instead of {before}: train.schedule = {training.schedule} is that of {now} "
        f"steps from here on, with the rate {rate:.4g} for step {step}"
        + (f", where it was to be {was:.4g}" if was != rate else "")
    )


def log_restart(world: World, folder: RunFolder, point: ResumePoint, *, began: float) -> None:
    """Collective: write and log the cost of a restart, after its first step.

    began: start of the command, ``time.monotonic()``.
    """
    elapsed = time.monotonic() - began
    engine = world.engine_name
    row = world.all_ranks.on_first(lambda: _add(folder, point, elapsed, engine), name="restarts")
    log.info(
        "restart %d at step %d: %d steps lost, %.1f s from the start of the command to the end of "
        "the first step",
        row["restart"],
        point.step,
        point.lost_steps,
        elapsed,
    )


def lost_steps(metrics: Path, step: int) -> int:
    """Return how many steps were made, and written to ``metrics``, after the state of ``step``."""
    steps = [int(row["step"]) for row in read_metrics(metrics) if "loss" in row]
    return max(0, max(steps, default=-1) + 1 - step)


def _add(
    folder: RunFolder, point: ResumePoint, restart_time_s: float, engine: str | None
) -> dict[str, Any]:
    folder.require_own()
    path = folder.restarts
    row = {
        "restart": len(read_metrics(path)) + 1,
        "step": point.step,
        "lost_steps": point.lost_steps,
        "restart_time_s": restart_time_s,
        "engine": engine,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row
