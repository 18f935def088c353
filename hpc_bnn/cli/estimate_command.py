"""``hpc-bnn train CONFIG --estimate``: memory and time of a rank, for these ranks or for others."""

import argparse
import os

import torch

from hpc_bnn.config import Settings
from hpc_bnn.data import Source, without_files
from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid, choose_sample_ranks, fitting_grids
from hpc_bnn.parallel.launcher import node_name, split_by_node
from hpc_bnn.train.plan.estimate import (
    GIB,
    host_bytes,
    largest,
    told,
    verdict,
    verdict_by_themselves,
)
from hpc_bnn.train.plan.evaluation_memory import evaluation_memory, told_evaluation
from hpc_bnn.train.plan.forecast_memory import forecast_line, forecast_memory
from hpc_bnn.train.plan.step_time import step_time, told_time
from hpc_bnn.train.run.build import build, read_source


def estimate_command(
    options: argparse.Namespace, settings: Settings, all_ranks: Group
) -> tuple[list[str], int]:
    """Collective: return the estimate as lines, and status 1 where the training, or evaluation or
    forecasts by themselves, do not fit the device.
    """
    node = split_by_node(all_ranks, node_name(os.environ))[0].size
    ranks, per_node = options.ranks or all_ranks.size, options.ranks_per_node
    per_node = per_node or (node if ranks == all_ranks.size else min(ranks, max(node, 1)))
    grids = _grids(settings, ranks, per_node)
    source = _source(settings, options.points, all_ranks)
    on_gpu = settings.train.device != "cpu" and torch.cuda.is_available()
    gpu = on_gpu or settings.train.device == "cuda" or bool(options.device_memory)
    found, grid = largest(settings, source, grids, gpu=gpu)
    lines = told(found, settings, grid, gpu=gpu)
    if settings.grid.mode == "auto":
        every = ", ".join(f"{each.sample_ranks} x {each.data_ranks}" for each in grids)
        lines.insert(0, f"grid.mode = auto may choose {every}; of these, what needs most:")
    needs = {}
    evaluation = evaluation_memory(settings, source, ranks)
    if evaluation is not None:
        held = found.parameters + found.optimizer + (0 if gpu else found.process)
        needs["evaluate"] = held + (evaluation.device if gpu else evaluation.cpu + evaluation.lost)
        lines.append(told_evaluation(evaluation, held, gpu=gpu))
    if source.fields is not None:
        forecast = forecast_memory(build(settings, source), settings, source.fields)
        held = found.parameters + (0 if gpu else found.process)
        needs["forecast"] = held + forecast.work
        lines.append(forecast_line(forecast, held))
    capacity = _capacity(options.device_memory, gpu=gpu, on_gpu=on_gpu, per_node=per_node)
    line, fits = verdict(found, gpu=gpu, capacity=capacity)
    misfits = verdict_by_themselves(needs, gpu=gpu, capacity=capacity)
    times = _times(settings, source, grid, all_ranks, here=fits and gpu == on_gpu)
    return [*lines, line, *misfits, *times], 0 if fits and not misfits else 1


def _times(
    settings: Settings, source: Source, grid: Grid, all_ranks: Group, *, here: bool
) -> list[str]:
    """Collective: return how long a step takes, of the slowest rank where several run at once.

    here: the device of the run is here, and its memory is enough.
    """
    if not here:
        return ["time: not measured, as the run would not go on this device"]
    on_gpu = settings.train.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    own = all_ranks.together(
        lambda: step_time(settings, source, grid, device), name="time of a step"
    )
    found = [each for each in all_ranks.gather(own, name="times") if each is not None]
    if len(found) < all_ranks.size:
        return ["time: not measured, as a few passes do not fit the memory there is now"]
    slowest = max(found, key=lambda each: each.step_s)
    return told_time(slowest, settings, grid, device, num_examples=len(source.train))


def _grids(settings: Settings, ranks: int, per_node: int) -> list[Grid]:
    """Return the grids that the run may have: one, or all among which it would choose.

    Raises
    ------
    ValueError
        If none shares samples and batch.
    """
    mode, samples = settings.grid.mode, settings.posterior.samples
    batch_size = settings.train.batch_size
    if mode == "auto":
        fitting = fitting_grids(ranks, samples=samples, batch_size=batch_size)
        return [Grid(s, d, 0) for s, d in fitting]
    chosen = choose_sample_ranks(
        ranks, per_node, mode=mode, sample_ranks=settings.grid.sample_ranks
    )
    grid = Grid(chosen, ranks // chosen, 0)
    grid.own_samples(samples)
    grid.own_examples(batch_size)
    return [grid]


def _source(settings: Settings, points: tuple[int, int] | None, all_ranks: Group) -> Source:
    """Collective: read the data set, or only know its shapes where the grid is given."""
    if points is None:
        return read_source(settings, all_ranks)
    shapes, name = without_files(settings.data.name), settings.data.name
    if shapes is None:
        raise ValueError(f"--points: data.name = {name!r} has no shapes without data; leave it out")
    return shapes(*points, **settings.data.options)


def _capacity(given_gib: float | None, *, gpu: bool, on_gpu: bool, per_node: int) -> int:
    """Return the bytes there are for a rank, 0 if unknown."""
    if given_gib:
        return int(given_gib * GIB)
    if not gpu:
        return host_bytes() // per_node
    return torch.cuda.mem_get_info()[1] if on_gpu else 0
