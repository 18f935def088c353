"""Resuming a run, and what that cost: ``restarts.jsonl``, one object a restart.

A job script that goes on after a fault says why, and since when, in HPC_BNN_RECOVERY (``Recovery``
as JSON); what it does not say is an ordinary restart.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_bnn.config import Settings
from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.config.yaml_text import parse
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import read_metrics
from hpc_bnn.train.run.node_snapshots import NodeSnapshots
from hpc_bnn.train.run.snapshots import Snapshots
from hpc_bnn.train.step.schedule import scheduled

log = logging.getLogger(__name__)


RECOVERY = "HPC_BNN_RECOVERY"


@dataclass(frozen=True)
class ResumePoint:
    """A run that goes on at ``step``, having lost so many steps that were made after it.

    source: the file that it goes on from, "" where there was none. old_grid: of the steps before.
    """

    step: int
    lost_steps: int
    source: str = ""
    old_grid: Mapping[str, int] | None = None


def resume_run(
    world: World,
    folder: RunFolder,
    snapshots: Snapshots,
    nodes: NodeSnapshots,
    settings: Settings,
    steps_per_epoch: int,
) -> ResumePoint | None:
    """Collective: restore the newest good state, of the checkpoints and the snapshots on nodes;
    None where the run has not made a step yet.

    A run that was killed before its first checkpoint goes on at step 0.
    """
    computed = nodes.computed()
    restored = snapshots.go_on(nodes.files())
    step = 0 if restored is None else restored[1].step
    made, grid = world.all_ranks.on_first(
        lambda: (made_steps(folder.metrics), folder.last_grid()), name="metrics"
    )
    lost = max(0, max(made, computed) - step)
    if made < step:
        log.warning(
            "%s lacks steps %d to %d: they were made, but the node that wrote them is lost",
            folder.metrics,
            made,
            step - 1,
        )
    if restored is not None:
        path, state = restored
        log.info("resumed from %s at step %d", path, step)
        before = Settings.model_validate(parse(state.settings)).train.total_steps(steps_per_epoch)
        now = settings.train.total_steps(steps_per_epoch)
        if before != now:
            log.info("%s", describe_growth(settings.train, step, before=before, now=now))
        return ResumePoint(step, lost, str(path), grid)
    log.info("no checkpoint in %s yet: starting from the beginning", folder.checkpoints)
    return ResumePoint(0, lost, "", grid) if lost else None


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


def log_restart(
    world: World,
    folder: RunFolder,
    point: ResumePoint | None,
    *,
    began: float,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Collective, after the first step: note the grid, and write and log what a restart cost; None:
    the run begins.

    began: start of the command, ``time.monotonic()``.
    """
    elapsed = time.monotonic() - began
    grid = {
        "sample_ranks": world.grid.sample_ranks,
        "data_ranks": world.grid.data_ranks,
        "nodes": world.num_nodes,
    }

    def note() -> dict[str, Any]:
        folder.note_grid(grid)
        if point is None:
            return {}
        row = {
            "step": point.step,
            "lost_steps": point.lost_steps,
            "restart_time_s": elapsed,
            "engine": world.engine_name,
            "from": point.source,
            "old_grid": point.old_grid,
            "grid": grid,
            **recovery_facts(environment, now=time.time()),
        }
        return _add(folder, row)

    row = world.all_ranks.on_first(note, name="restarts")
    if point is None:
        return
    log.info(
        "restart %d at step %d: %d steps lost, %.1f s from the start of the command to the end of "
        "the first step%s",
        row["restart"],
        point.step,
        point.lost_steps,
        elapsed,
        f", {row['down_s']:.1f} s since the fault ({row['why']})" if "down_s" in row else "",
    )


def recovery_facts(environment: Mapping[str, str], *, now: float) -> dict[str, Any]:
    """Return what the job script said of the fault that it goes on after: ``why``, and the seconds
    ``down_s`` since it saw it; nothing where it said nothing.

    now: seconds since 1970.
    """
    try:
        said = json.loads(environment.get(RECOVERY) or "{}")
        return {"why": str(said["why"]), "down_s": now - float(said["since"])}
    except (ValueError, KeyError, TypeError):
        return {}


def made_steps(metrics: Path) -> int:
    """Return how many steps were made and written to ``metrics``."""
    steps = [int(row["step"]) for row in read_metrics(metrics) if "loss" in row]
    return max(steps, default=-1) + 1


def _add(folder: RunFolder, row: dict[str, Any]) -> dict[str, Any]:
    folder.require_own()
    path = folder.restarts
    row = {"restart": len(read_metrics(path)) + 1, **row}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row
