"""How fast the ranks exchange: latency and bandwidth along each axis, by MPI and by Horovod."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from hpc_bnn.group import Group
from hpc_bnn.parallel.world import World, split
from hpc_bnn.study.finding import Finding, told

# One exchange of so many bytes: what came out for a sum over ranks, and what is right.
Run = Callable[[int], tuple[float, float]]

SMALL_BYTES, LARGE_BYTES = 8, 64 << 20
REPEATS = 5
REMEDY = "compare the MPI libraries above; start with the launcher of that MPI"


def exchanges(all_ranks: Group) -> list[Finding]:
    """Collective: return the findings; sums are checked as well as timed."""
    worlds: list[World] = []

    def start() -> str:
        worlds.append(split(all_ranks, device="auto"))
        grid = worlds[0].grid
        return f"{grid.sample_ranks} sample x {grid.data_ranks} data ranks, {worlds[0].device}"

    found = [told("grid (hybrid)", start, REMEDY)]
    if not worlds:
        return found
    world = worlds[0]
    axes = {
        "world": world.all_ranks,
        "sample axis": world.sample_axis,
        "data axis": world.data_axis,
    }
    for name, axis in axes.items():
        if axis.size > 1:
            found.append(told(f"MPI, {name}", partial(_timed, _by_mpi(axis)), REMEDY))
    found.append(told("Horovod, world", lambda: _timed(_by_horovod(world)), REMEDY))
    world.stop()
    return found


def _by_mpi(axis: Group) -> Run:
    def run(size: int) -> tuple[float, float]:
        x = torch.full((max(1, size // 4),), axis.rank + 1.0)
        total = axis.all_reduce(x, reduction="sum", name="doctor")
        return float(total[-1]), axis.size * (axis.size + 1) / 2

    return run


def _by_horovod(world: World) -> Run:
    sizes = (SMALL_BYTES, LARGE_BYTES)
    parameters = {
        size: torch.nn.Parameter(torch.zeros(max(1, size // 4), device=world.device))
        for size in sizes
    }
    reducers = {
        size: world.reducer([(f"doctor {size}", parameters[size])], passes=1) for size in sizes
    }
    ranks = world.grid.world_size
    # Summed over the sample axis, averaged over the data axis.
    expected = ranks * (ranks + 1) / 2 / world.grid.data_ranks

    def run(size: int) -> tuple[float, float]:
        parameter, reducer = parameters[size], reducers[size]
        parameter.grad = None
        reducer.begin()
        mine = (world.grid.world_rank + 1.0) * reducer.scale
        torch.autograd.backward(parameter.sum() * mine)
        reducer.wait()
        assert parameter.grad is not None
        return float(parameter.grad[-1]), expected

    return run


def measure(all_ranks: Group) -> tuple[World, dict[int, float]]:
    """Collective: time Horovod's reduction over the world; return the seconds by number of bytes,
    of the slowest rank.
    """
    world = split(all_ranks, device="auto")
    try:
        mine = _seconds(_by_horovod(world))
    finally:
        world.stop()
    everyone = all_ranks.gather(mine, name="times of exchanges")
    return world, {size: max(times[size] for times in everyone) for size in mine}


def _seconds(run: Run) -> dict[int, float]:
    """Collective: return the median time of a small and of a large exchange, on this rank.

    Raises
    ------
    RuntimeError
        If a sum is wrong; after the last exchange, as it may be right on other ranks.
    """
    seconds, sums = {}, []
    for size in (SMALL_BYTES, LARGE_BYTES):
        sums.append(run(size))  # connects, and makes buffers
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            sums.append(run(size))
            times.append(time.perf_counter() - began)
        seconds[size] = median(times)
    for total, expected in sums:
        _require(total, expected)
    return seconds


def _timed(run: Run) -> str:
    """Return what ``_seconds`` found as text."""
    seconds = _seconds(run)
    rate = LARGE_BYTES / seconds[LARGE_BYTES] / 1e9
    return f"8 B in {seconds[SMALL_BYTES] * 1e6:.0f} us, 64 MB at {rate:.2f} GB/s, sums correct"


def _require(found: float, expected: float) -> None:
    if abs(found - expected) > 1e-5 * expected:
        raise RuntimeError(f"a sum over ranks came out as {found}, expected {expected}")
