"""``grid.mode: auto``: measure, before a run, how its step would fare on each grid.

    T(S, D) = passes(K/S, B/D) + loss(K/S, B/D) + exchange(S) + update + reduction

For each grid the control flow of a step (``accumulate``) runs on real examples, on all ranks at
once, so that they share memory and cores as in the run; of passes of one length, one runs and
stands for all. ``update`` is KL and optimizer, ``reduction`` that of the gradients, not hidden;
both are the same on every grid but for members, of which a rank has its own. The exchanges of a
joint loss are counted and priced by two timed ones. A grid for which the memory of some rank is too
small takes infinitely long. What is measured with is thrown away: parameters, optimizer and noise
of the run are made afterwards, as without, and since the answer does not depend on the grid,
neither does it depend on the choice.
"""

import gc
import logging
import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.data import Source
from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid, fitting_grids
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.plan.grid_probe import TOO_LARGE, Accumulation, GridProbe
from hpc_bnn.train.run.build import Parts, build, read_source
from hpc_bnn.train.run.folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A grid that shares K and B, and the predicted seconds of its step and their parts."""

    sample_ranks: int
    data_ranks: int
    step_time_s: float = math.nan
    passes_s: float = math.nan
    loss_s: float = math.nan
    exchange_s: float = math.nan
    update_s: float = math.nan
    reduction_s: float = math.nan


@dataclass(frozen=True)
class AutoGrid:
    """What was chosen and why; the data set, which need not be read again."""

    sample_ranks: int
    candidates: tuple[Candidate, ...]
    seconds: float
    source: Source | None = None

    def record(self) -> dict[str, Any]:
        """Return what ``summary.json`` tells; a grid that was the only one was not measured."""
        return {
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "seconds": self.seconds,
        }


def start_auto(
    settings: Settings, all_ranks: Group, folder: RunFolder, *, resume: bool
) -> tuple[World, AutoGrid]:
    """Collective: measure the grids of this job and start the world on the fastest.

    Raises
    ------
    ValueError
        If no grid shares K and B, or the folder holds another run.
    """
    samples, batch_size = settings.posterior.samples, settings.train.batch_size
    grids = fitting_grids(all_ranks.size, samples=samples, batch_size=batch_size)
    agree(all_ranks, {"settings": dump_settings(settings)}, name="settings")
    all_ranks.on_first(lambda: folder.check(settings, resume=resume), name="run folder")
    # Most samples apart first: where that is what is chosen, the engine is not started twice.
    world = _start(settings, all_ranks, grids[-1][0])
    if len(grids) == 1:
        only = AutoGrid(grids[0][0], (Candidate(*grids[0]),), 0.0)
        log.info("grid.mode = auto: %d x %d is the only grid that shares K and B", *grids[0])
        return world, only
    world.watchdog.pause()  # each rank takes its own time to read
    source = read_source(settings, world.all_ranks)
    parts = world.all_ranks.together(lambda: build(settings, source), name="building the model")
    began = time.perf_counter()
    found = _measured(settings, world, parts, grids)
    del parts
    _forget(world.device)
    best = min(found, key=lambda candidate: candidate.step_time_s)
    chosen = all_ranks.broadcast(best.sample_ranks, name="grid")
    if not math.isfinite(best.step_time_s):
        raise RuntimeError(
            "grid.mode = auto: can't allocate memory for a batch and one pass over it on any grid"
        )
    if chosen != world.grid.sample_ranks:
        world.stop()
        world = _start(settings, all_ranks, chosen)
    choice = AutoGrid(chosen, tuple(found), time.perf_counter() - began, source)
    for candidate in found:
        log.info(
            "grid.mode = auto: %d x %d: predicted %.4g ms a step%s",
            candidate.sample_ranks,
            candidate.data_ranks,
            candidate.step_time_s * 1e3,
            ", chosen" if candidate.sample_ranks == chosen else "",
        )
    return world, choice


def _start(settings: Settings, all_ranks: Group, sample_ranks: int) -> World:
    return start(
        all_ranks,
        sample_ranks=sample_ranks,
        device=settings.train.device,
        engine=settings.grid.engine,
        stall_timeout_s=settings.train.stall_timeout,
    )


def _measured(
    settings: Settings, world: World, parts: Parts, grids: list[tuple[int, int]]
) -> list[Candidate]:
    """Collective: return the candidates with the times of the slowest rank."""
    probe = GridProbe(settings, world, parts)
    # Fewest data ranks first: theirs is the most that has to be read.
    timed = {(s, d): _on_grid(probe, world, Grid(s, d, 0)) for s, d in reversed(grids)}
    probe.release()
    latency, rate = probe.exchanges()
    reduction = probe.reduction()  # last: its hooks stay on the parameters
    (shared, per_sample), rows = probe.sizes(), []
    measured = shared + per_sample / world.grid.sample_ranks
    for s, d in grids:
        found = timed[s, d]
        exchange = found.exchanges * latency * math.log2(s) + found.received_bytes * rate
        reduced = (shared + (per_sample / s if d > 1 else 0)) / measured
        rows.append([found.passes_s, found.loss_s, exchange, found.update_s, reduction * reduced])
    slowest = world.all_ranks.all_reduce(
        torch.tensor(rows, dtype=torch.float64), reduction="max", name="candidates"
    )
    return [
        Candidate(s, d, float(row.sum()), *row.tolist())
        for (s, d), row in zip(grids, slowest, strict=True)
    ]


def _on_grid(probe: GridProbe, world: World, grid: Grid) -> Accumulation:
    """Collective: return what passes and loss take on a grid, ``TOO_LARGE`` on every rank where one
    cannot hold its part of a batch.
    """
    all_ranks = world.all_ranks
    held = all_ranks.together(partial(probe.hold, grid.data_ranks), name="a batch")
    fits = all(all_ranks.gather(held, name="memory of a batch"))
    world.watchdog.resume()  # all have read the largest part of a batch
    if not fits:
        probe.release()
        return TOO_LARGE
    return all_ranks.together(partial(probe.accumulation, grid), name="passes")


def _forget(device: torch.device) -> None:
    """Give the memory of the measurement back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
