"""What is built and wired here, as a table for a support ticket: one finding a line, each bad one
with its remedy; and how fast the ranks exchange, by MPI along each axis and by each engine.
"""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from hpc_bnn.group import Group
from hpc_bnn.parallel.engines import ENGINES
from hpc_bnn.parallel.site import AS_ROOT, mpirun, mpirun_words, read_site
from hpc_bnn.parallel.world import World, start
from hpc_bnn.study.machine import machine
from hpc_bnn.study.software import Finding, probe, software
from hpc_bnn.train.run.versions import versions

# One exchange of so many bytes: the sum over ranks that came out, and the right one.
Exchanged = Callable[[int], tuple[float, float]]

SMALL_BYTES, LARGE_BYTES = 8, 64 << 20
REPEATS = 5
COLLECTIVE_TIMEOUT_S = 120
REMEDY = "compare the MPI libraries above; start with the launcher of that MPI"


def diagnose(all_ranks: Group, folder: Path) -> list[Finding]:
    """Collective over the world: return the findings; on one rank it starts two ranks of its own.

    folder: where runs would be written.
    """
    here = all_ranks.on_first(versions, name="versions")
    findings = [*software(here), *machine(all_ranks, folder)]
    return [*findings, *(exchange_of_two() if all_ranks.size == 1 else _exchanges(all_ranks))]


def exchange_of_two() -> list[Finding]:
    """Start two ranks with the launcher beside this Python, and return what they report of each
    engine.
    """
    what = "exchange of 2 ranks"
    if importlib.util.find_spec("mpi4py") is None:
        return [Finding(what, "skipped: no mpi4py")]
    if mpirun() is None:
        return [Finding(what, "skipped: no mpirun on PATH; run hpc-bnn doctor under srun")]
    command = [
        *mpirun_words(read_site()),
        "-n",
        "2",
        sys.executable,
        "-m",
        "mpi4py",
        "-m",
        "hpc_bnn",
        "doctor",
    ]
    reports: dict[str, str] = {}

    def run() -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COLLECTIVE_TIMEOUT_S,
            env={**AS_ROOT, **os.environ} if os.geteuid() == 0 else None,
        )
        for title in (engine.title for engine in ENGINES.values()):
            lines = [line for line in done.stdout.splitlines() if f"{title}, world" in line]
            if not lines or not lines[0].startswith("ok"):
                raise RuntimeError(_head_and_tail((done.stderr or done.stdout).strip()))
            reports[title] = lines[0].partition(f"{title}, world")[2].strip()
        return ""

    whole = probe(what, run, REMEDY)
    if not whole.good:
        return [whole]
    return [Finding(f"{what}, {title}", report) for title, report in reports.items()]


def measure(all_ranks: Group, engine: str) -> tuple[World, dict[int, float]]:
    """Collective: time an engine's reduction over the world; return the seconds by number of bytes,
    of the slowest rank.
    """
    world = start(all_ranks, device="auto", engine=engine)
    try:
        mine = _seconds(_by_engine(world))
    finally:
        world.stop()
    everyone = all_ranks.gather(mine, name="times of exchanges")
    return world, {size: max(times[size] for times in everyone) for size in mine}


def _exchanges(all_ranks: Group) -> list[Finding]:
    """Collective: time exchanges by MPI along each axis, and by each engine over the world, and
    check their sums.
    """
    findings: list[Finding] = []
    for engine in ENGINES.values():
        title = engine.title
        if not engine.is_installed():
            findings.append(Finding(f"{title}, world", "skipped: not installed"))
            continue
        worlds: list[World] = []

        def start_grid(name: str = engine.name, worlds: list[World] = worlds) -> str:
            worlds.append(start(all_ranks, device="auto", engine=name))
            grid = worlds[0].grid
            return f"{grid.sample_ranks} sample x {grid.data_ranks} data ranks, {worlds[0].device}"

        started = probe(f"grid (hybrid), {title}", start_grid, REMEDY)
        findings.append(started)
        if started.good:
            world = worlds[0]
            if not any(finding.what.startswith("MPI, ") for finding in findings):
                findings += _axes_by_mpi(world)
            findings.append(probe(f"{title}, world", partial(_timed, _by_engine(world)), REMEDY))
            world.stop()
    return findings


def _axes_by_mpi(world: World) -> list[Finding]:
    axes = {
        "world": world.all_ranks,
        "sample axis": world.sample_axis,
        "data axis": world.data_axis,
    }
    return [
        probe(f"MPI, {name}", partial(_timed, _by_mpi(axis)), REMEDY)
        for name, axis in axes.items()
        if axis.size > 1
    ]


def _by_mpi(axis: Group) -> Exchanged:
    def run(size: int) -> tuple[float, float]:
        x = torch.full((max(1, size // 4),), axis.rank + 1.0)
        total = axis.all_reduce(x, reduction="sum", name="doctor")
        return float(total[-1]), axis.size * (axis.size + 1) / 2

    return run


def _by_engine(world: World) -> Exchanged:
    sizes = (SMALL_BYTES, LARGE_BYTES)
    parameters = {
        size: torch.nn.Parameter(torch.zeros(max(1, size // 4), device=world.device))
        for size in sizes
    }
    reducers = {size: world.reducer([(f"doctor {size}", parameters[size])]) for size in sizes}
    ranks = world.grid.world_size
    # Summed over the sample axis, averaged over the data axis.
    expected = ranks * (ranks + 1) / 2 / world.grid.data_ranks

    def run(size: int) -> tuple[float, float]:
        parameter, reducer = parameters[size], reducers[size]
        parameter.grad = None
        reducer.begin()
        reducer.at_last_pass()
        mine = world.grid.world_rank + 1.0
        torch.autograd.backward(parameter.sum() * mine)
        reducer.wait()
        assert parameter.grad is not None
        return float(parameter.grad[-1]), expected

    return run


def _seconds(run: Exchanged) -> dict[int, float]:
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
        if abs(total - expected) > 1e-5 * expected:
            raise RuntimeError(f"a sum over ranks came out as {total}, expected {expected}")
    return seconds


def _timed(run: Exchanged) -> str:
    """Return what ``_seconds`` measures as text."""
    seconds = _seconds(run)
    rate = LARGE_BYTES / seconds[LARGE_BYTES] / 1e9
    return f"8 B in {seconds[SMALL_BYTES] * 1e6:.0f} us, 64 MB at {rate:.2f} GB/s, sums correct"


def _head_and_tail(text: str, limit: int = 600) -> str:
    """Return head and tail of a long message: launchers put the reason first, Python last."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 2 :]}"
