"""What many ranks cost: their start, their memory and messages, and every routine of all ranks.

    python tests/bench/many_ranks.py                    4 to 32 ranks, and 4,096 that are rows
    python tests/bench/many_ranks.py --ranks 4 8        few of them
    python tests/bench/many_ranks.py --ranks            the rows alone, seconds

The ranks of the first table share the cores of this machine, however few there are, so that wall
times grow with their number; CPU times are those of a rank itself, with all of its threads, from
the start of its process until its first step has ended, and include what waits in MPI without
sleeping. Sizes are run in interleaved rounds. ``messages`` are the exchanges of a step that begin
on the host, and those that a guard adds. Each answer, the loss of the last of five steps and the
sum of the parameters, is compared with that of one rank.

The second table takes every routine in which all ranks compare or exchange something, with rank 0
of 4,096 whose others are rows of a tensor (tests/unit/row_group.py): what Python costs there, the
least of several calls, without the network.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from job import run_ranks
from report import Row, Target, publish
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit"))

RANKS = (4, 8, 16, 32)
ROUNDS = 3
SAMPLES = BATCH = 32
STEPS = 5
ROWS = 4096
START_RATIO = 3.0  # of 32 ranks to 4, CPU time of a rank's start
GUARD_S, AGREEMENT_S = 20e-3, 50e-3
SAME = 1e-9


def rank_main(folder: Path, began: float) -> None:
    """Run as a rank of a job: train a tiny network and write down what it took."""
    import hpc_bnn as hb
    from hpc_bnn.parallel import guards
    from hpc_bnn.parallel.horovod import HorovodEngine
    from hpc_bnn.parallel.mpi import connect
    from hpc_bnn.parallel.mpi_group import MPIGroup

    size = connect().size
    world = hb.start(sample_ranks=min(8, size))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).double()
    posterior = hb.Gaussian(network)
    optimizer = torch.optim.SGD(posterior.parameters(), lr=1e-2)
    step = hb.Step(
        posterior,
        hb.losses.gaussian_nll(),
        optimizer,
        world,
        samples=SAMPLES,
        num_examples=100,
        guard_every=1,
    )
    own = world.grid.own_examples(BATCH)
    x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(1)).double()
    y = x[:, :2].sin()
    batch = x[own.start : own.stop], y[own.start : own.stop]
    loss = step(*batch)
    figures: dict[str, float] = {"wall_s": time.time() - began, "cpu_s": _cpu_s()}

    messages = [0]
    guard_s: list[float] = []
    of_guards = [0]
    finish, begin, check = MPIGroup._finish, HorovodEngine.all_reduce_async, guards.check

    def finished(self: MPIGroup, request: object, name: str) -> None:
        messages[0] += 1
        finish(self, request, name)

    def begun(self: HorovodEngine, *arguments: object, **options: object) -> object:
        messages[0] += 1
        return begin(self, *arguments, **options)  # type: ignore[arg-type]

    def checked(*arguments: object, **options: object) -> None:
        before, since = messages[0], time.thread_time()
        check(*arguments, **options)  # type: ignore[arg-type]
        guard_s.append(time.thread_time() - since)
        of_guards[0] += messages[0] - before

    MPIGroup._finish = finished  # type: ignore[method-assign]
    HorovodEngine.all_reduce_async = begun  # type: ignore[method-assign, assignment]
    guards.check = checked
    for _ in range(STEPS - 1):
        loss = step(*batch)
    figures |= {
        "messages": (messages[0] - of_guards[0]) / (STEPS - 1),
        "guard_messages": of_guards[0] / (STEPS - 1),
        "guard_ms": 1e3 * statistics.median(guard_s) if guard_s else 0.0,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loss": loss.item(),
        "sum": sum(float(p.detach().sum()) for p in posterior.parameters()),
    }
    everyone = world.all_ranks.gather(figures, name="figures")
    if world.is_first:
        (folder / f"{size}.json").write_text(json.dumps(everyone))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def started(sizes: Sequence[int], rounds: int) -> dict[int, list[list[dict[str, float]]]]:
    """Return the figures of the ranks of each size, of each round."""
    found: dict[int, list[list[dict[str, float]]]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for size in sizes:
                words = ["--folder", folder, "--began", str(time.time())]
                run_ranks(size, __file__, words)
                found[size].append(json.loads((Path(folder) / f"{size}.json").read_text()))
    return found


def rows_of_starts(sizes: Sequence[int], rounds: int) -> tuple[list[Row], list[Target]]:
    """Start ranks and return what they took."""
    found = started((1, *sizes), rounds)
    (alone,) = found[1][0]
    rows: list[Row] = []
    cpu: dict[int, float] = {}
    apart = 0.0
    for size in sizes:
        runs = found[size]
        cpu[size] = min(statistics.median(one["cpu_s"] for one in run) for run in runs)
        differences = [
            abs(one[key] - alone[key]) / abs(alone[key])
            for run in runs
            for one in run
            for key in ("loss", "sum")
        ]
        apart = max(apart, *differences)
        last = runs[-1]
        rows.append(
            {
                "ranks": size,
                "start_s": min(max(one["wall_s"] for one in run) for run in runs),
                "start_cpu_s_a_rank": cpu[size],
                "rss_mib": max(one["rss_mib"] for one in last),
                "messages": last[0]["messages"],
                "guard_messages": last[0]["guard_messages"],
                "guard_cpu_ms": min(
                    statistics.median(one["guard_ms"] for one in run) for run in runs
                ),
                "off_one_rank": max(differences),
            }
        )
    ratio = cpu[sizes[-1]] / cpu[sizes[0]]
    name = f"CPU of a rank's start, {sizes[-1]} ranks to {sizes[0]}"
    return rows, [
        Target(name, ratio, most=START_RATIO),
        Target("answer of all ranks to that of one, relative", apart, most=SAME),
    ]


def least_s(call: Callable[[], object], times: int = 5) -> float:
    """Return the least CPU time of several calls."""
    found = []
    for _ in range(times):
        since = time.thread_time()
        call()
        found.append(time.thread_time() - since)
    return min(found)


def rows_of_routines() -> tuple[list[Row], list[Target]]:
    """Time what all ranks do together, as rank 0 of 4,096."""
    from row_group import RowGroup

    from hpc_bnn.data.same_examples import same_examples
    from hpc_bnn.data.source import InMemory
    from hpc_bnn.group import ALONE
    from hpc_bnn.parallel import guards
    from hpc_bnn.parallel.engines import agree_on_engine
    from hpc_bnn.parallel.grid import Grid
    from hpc_bnn.parallel.launcher import split_by_node
    from hpc_bnn.parallel.world import World

    def along_samples(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
        rows[..., 1:] += ranks[:, None, None]  # draws and members
        return rows

    def along_data(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
        rows[..., 0] += ranks[:, None]  # batches
        return rows

    everyone = RowGroup(ROWS)
    cpu = torch.device("cpu")
    settings = {f"setting {i}": i for i in range(100)}
    others = RowGroup(ROWS, objects=lambda name, value, rank: value)
    example = InMemory(torch.randn(64, 3, 32, 32), torch.zeros(64))
    routines: dict[str, tuple[Callable[[], object], float]] = {}
    for samples, data in ((64, 64), (ROWS, 1), (1, ROWS)):
        axes = (
            ALONE if samples == 1 else RowGroup(samples, along_samples),
            ALONE if data == 1 else RowGroup(data, along_data),
        )
        world = World(Grid(samples, data, 0), cpu, everyone, *axes)
        small = torch.ones(16)
        rows = {"rows": small} if samples > 1 else {}

        def guard(world: World = world, rows: dict[str, Tensor] = rows) -> None:
            guards.check(
                world,
                step=0,
                parameters={"p": torch.ones(16)},
                per_sample=rows,
                batch=[torch.ones(16)],
                draw=torch.ones(16),
            )

        routines[f"guard, {samples} x {data}"] = (guard, GUARD_S)
    routines |= {
        "agreement on 100 settings": (
            lambda: guards.agree(everyone, settings, name="x"),
            AGREEMENT_S,
        ),
        "agreement on the engine": (lambda: agree_on_engine(everyone, "torch", cpu), AGREEMENT_S),
        "agreement on the examples": (lambda: same_examples(example, others), AGREEMENT_S),
        "sums that prove equality": (
            lambda: guards.total_of(everyone, [1.0, 2.0], [3, 4, 5], name="x"),
            GUARD_S,
        ),
        "work together": (lambda: everyone.together(lambda: None, name="x"), GUARD_S),
        "work on the first rank": (lambda: everyone.on_first(lambda: settings, name="x"), GUARD_S),
        "nodes": (lambda: split_by_node(everyone, "node"), AGREEMENT_S),
    }
    found = {name: least_s(call) for name, (call, _) in routines.items()}
    rows_: list[Row] = [{"routine": name, "ms": 1e3 * s} for name, s in found.items()]
    return rows_, [
        Target(f"{name}, {ROWS} ranks, s", found[name], most=most)
        for name, (_, most) in routines.items()
    ]


def main() -> None:
    """Run as the job of a rank, or start the jobs and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="*", default=list(RANKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--began", type=float, default=0.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.folder is not None:
        rank_main(options.folder, options.began)
        return
    publish("many_ranks-routines", *rows_of_routines())
    if options.ranks:
        publish("many_ranks-starts", *rows_of_starts(options.ranks, options.rounds))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
