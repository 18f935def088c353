"""Resuming a run, and what that cost: ``restarts.jsonl``, one object a restart."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import read_metrics
from hpc_bnn.train.run.snapshots import Snapshots

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResumePoint:
    """A run that goes on at ``step``, having lost so many steps that were made after it."""

    step: int
    lost_steps: int


def resume_run(world: World, folder: RunFolder, snapshots: Snapshots) -> ResumePoint | None:
    """Collective: restore the newest good checkpoint; None where the run has not made a step yet.

    A run that was killed before its first checkpoint goes on at step 0.
    """
    restored = snapshots.restore(to_train=True)
    step = 0 if restored is None else restored[1]
    lost = world.all_ranks.on_first(lambda: lost_steps(folder.metrics, step), name="metrics")
    if restored is not None:
        log.info("resumed from %s at step %d", *restored)
        return ResumePoint(step, lost)
    log.info("no checkpoint in %s yet: starting from the beginning", folder.checkpoints)
    return ResumePoint(0, lost) if lost else None


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
