"""Step time on several ranks beside one, at fixed and proportional work, and the exposed waiting.

    OMP_NUM_THREADS=1 mpirun -n 2 --bind-to none python -m mpi4py tests/bench/ranks.py
    ... tests/bench/ranks.py mlp --rounds 20          networks, rounds

Run it on a machine with a free core per rank; each rank uses one thread. As root in a container
also set OMPI_ALLOW_RUN_AS_ROOT, OMPI_ALLOW_RUN_AS_ROOT_CONFIRM and the two of the same names with
PRTE for OMPI to 1. HOROVOD_CYCLE_TIME (milliseconds) and HOROVOD_FUSION_THRESHOLD (bytes) are
worth varying; results are written as ``ranks-NETWORK-cycleTIME``. With fewer free cores than ranks
also set OMPI_MCA_mpi_yield_when_idle=1.

Interleaved contenders: one rank with all samples and one rank with its share, each with the
machine for itself (``alone``); all ranks with their shares over each engine, and in two stages; and
all ranks with their shares without any communication, which is what the shared caches, memory and
clock of the machine leave of the ideal. Horovod's thread wakes every cycle beside each of these. A
step's time is that of the slowest rank. Columns ``of_all`` and ``of_share`` are wall times over
those of one rank with all samples (fixed work) and with its share (proportional work); ``wait_ms``
is the communication in ``Report.phases_s`` of the rank that waited least.

The multilayer perceptron has no target but between the engines: at 1.7 million weights and 64 rows
its parts that do not shrink with the samples (KL, update, reduction) and the memory that the cores
share decide.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence

import contenders
import torch
from alone import Alone
from interleave import Timing, interleave, spread
from mpi4py import MPI
from networks import TASKS, Task
from report import Row, Target, publish

import hpc_bnn as hb

SAMPLES = 8  # on one rank, and on all ranks together
ALL, SHARE = "one rank, all samples", "one rank, its share"
HOROVOD, TORCH = "all ranks, Horovod", "all ranks, torch.distributed"
TWO_STAGE = "all ranks, Horovod, two-stage reduction"
OVER: dict[str, tuple[str, str]] = {
    HOROVOD: ("horovod", "world"),
    TORCH: ("torch", "world"),
    TWO_STAGE: ("horovod", "two_stage"),
}
APART = "all ranks, no communication"


class Waits:
    """A contender on this rank that notes the wait which each step reports."""

    def __init__(self, task: Task, step: hb.Step) -> None:
        self._task, self._step = task, step
        self.waited_s: list[float] = []

    def __call__(self) -> None:
        self._step(self._task.x, self._task.y)
        assert self._step.report is not None
        self.waited_s.append(self._step.report.phases_s["communication"])


def sleeping_barrier(comm: MPI.Comm) -> None:
    """Collective: wait for all ranks without spinning, then leave together to within microseconds.

    MPI's own barrier keeps a core busy, which would slow a rank that works alone.
    """
    arrived = comm.Ibarrier()
    while not arrived.Test():
        time.sleep(1e-3)
    comm.Barrier()


def build(
    comm: MPI.Comm, name: str, worlds: dict[str, hb.World]
) -> dict[str, Callable[[], object]]:
    """Collective: return this rank's contenders; those for one rank do nothing on the others."""
    task, share = TASKS[name](), SAMPLES // comm.size
    ranks = comm.allgather(os.getpid())
    built: dict[str, Callable[[], object]] = {
        ALL: Alone(name, SAMPLES, ranks) if comm.rank == 0 else int,
        SHARE: Alone(name, share, ranks) if comm.rank == 0 else int,
        APART: contenders.hb_step(task, samples=share, keep_noise=False),
    }
    for contender, (engine, reduction) in OVER.items():
        step = contenders.bayesian(
            task, samples=SAMPLES, keep_noise=False, world=worlds[engine], reduction=reduction
        )
        built[contender] = Waits(task, step)
    return built


def measure(comm: MPI.Comm, name: str, *, rounds: int) -> None:
    """Collective: time the contenders of one network; world rank 0 publishes them."""
    worlds = {
        engine: hb.start(sample_ranks=comm.size, device="cpu", engine=engine)
        for engine in ("horovod", "torch")
    }
    built = build(comm, name, worlds)
    timings = interleave(built, rounds=rounds, ready=lambda: sleeping_barrier(comm))
    for contender, run in built.items():
        if isinstance(run, Alone):
            timings[contender] = run.timings[-rounds:]
            run.close()
    waited = {
        contender: run.waited_s[-rounds:]
        for contender, run in built.items()
        if isinstance(run, Waits)
    }
    gathered = comm.gather((timings, waited), root=0)
    for world in worlds.values():
        world.stop()
    if gathered is None:
        return
    rows = []
    for contender in (ALL, SHARE, APART, *OVER):
        every = [of_rank[contender] for of_rank, _ in gathered]
        slowest = every[0] if contender in (ALL, SHARE) else _slowest(every)
        waits = [of_rank[contender] for _, of_rank in gathered if contender in of_rank]
        rows.append(row(contender, slowest, [min(step) for step in zip(*waits, strict=True)]))
    wall = {str(r["contender"]): float(r["wall_ms"]) for r in rows}
    for r in rows:
        own = wall[str(r["contender"])]
        r["of_all"], r["of_share"] = own / wall[ALL], own / wall[SHARE]
    cycle = os.environ.get("HOROVOD_CYCLE_TIME", "1")
    bounds = targets(comm.size, wall) if name.startswith("transformer") else []
    # Short steps show Horovod's cycle.
    most = 1.0 if name == "mlp" else 1.05
    bounds.append(Target(f"{TORCH} / {HOROVOD}", wall[TORCH] / wall[HOROVOD], most=most))
    publish(f"ranks-{name}-cycle{cycle}", rows, bounds)


def _slowest(every: Sequence[Sequence[Timing]]) -> list[Timing]:
    """Return the largest times of each round over the ranks."""
    return [
        Timing(max(run.cpu_s for run in runs), max(run.wall_s for run in runs))
        for runs in zip(*every, strict=True)
    ]


def row(contender: str, runs: Sequence[Timing], waited_s: Sequence[float]) -> Row:
    """Return one line of the table; CPU time includes Horovod's thread and busy waiting."""
    wall, cpu = spread([run.wall_s for run in runs]), spread([run.cpu_s for run in runs])
    return {
        "contender": contender,
        "wall_ms": 1e3 * wall.median,
        "wall_ms_q1": 1e3 * wall.lower,
        "wall_ms_q3": 1e3 * wall.upper,
        "wall_ms_min": 1e3 * min(run.wall_s for run in runs),
        "cpu_ms": 1e3 * cpu.median,
        "wait_ms": 1e3 * spread(waited_s).median if waited_s else 0.0,
        "rounds": len(runs),
    }


def targets(ranks: int, wall: dict[str, float]) -> list[Target]:
    """Return speed at fixed and efficiency at proportional work, and what communication takes."""
    found = []
    for contender in OVER:
        # 0.53 on two ranks: 6 % over the ideal 1 / ranks.
        found.append(
            Target(
                f"fixed work: {contender} / {ALL}", wall[contender] / wall[ALL], most=1.06 / ranks
            )
        )
        found.append(
            Target(
                f"proportional work: {SHARE} / {contender}",
                wall[SHARE] / wall[contender],
                least=0.95,
            )
        )
        found.append(
            Target(
                f"communication only: {APART} / {contender}",
                wall[APART] / wall[contender],
                least=0.95,
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "networks", nargs="*", help=f"of {', '.join(TASKS)}; none: mlp transformer-2"
    )
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.size < 2 or SAMPLES % comm.size:
        parser.error(f"{comm.size} rank(s): start it with mpirun -n 2, 4 or 8")
    torch.set_num_threads(1)
    names = arguments.networks or ["mlp", "transformer-2"]
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        parser.error(f"{unknown[0]}: expected one of {', '.join(TASKS)}")
    for name in names:
        measure(comm, name, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
