"""CPU time and bytes of a batch that two sample ranks read each by itself, or once together.

    OMP_NUM_THREADS=1 mpirun -n 2 --bind-to none python -m mpi4py tests/bench/share.py
    ... tests/bench/share.py 32x64 --rounds 20       one grid
    ... tests/bench/share.py swin                    wait for data in a training run

As root in a container also set OMPI_ALLOW_RUN_AS_ROOT, OMPI_ALLOW_RUN_AS_ROOT_CONFIRM and the two
of the same names with PRTE for OMPI to 1; with fewer free cores than ranks
OMPI_MCA_mpi_yield_when_idle=1.

Forecast windows of 69 channels (files of `reader.py`, stored step by step, and their repacked
cache), no other inputs, by the feeds of a training run: ``data.share`` each, allgather, window. CPU
time is that of all threads of all ranks, waiting included; bytes are what readers asked of files,
over the bytes of the batch. Everything is held in memory by the kernel. ``swin``: share of a run's
time that the slowest rank waits for data, with the network of `swin_era5.yaml`, batch 2, 2 samples.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hpc_bnn.fields.cache.repack import repack
from interleave import Timing, interleave, spread
from mpi4py import MPI
from reader import GRIDS, LEVELS, SURFACE, UPPER, chosen, scales, write
from report import Row, Target, publish

import hpc_bnn as hb
from hpc_bnn.config import CONFIGS, load_settings
from hpc_bnn.data import Batches
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.reader import Reader
from hpc_bnn.fields.windows import Atmosphere, ForecastWindows
from hpc_bnn.train.feed.sharing import Sharing
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train

WAYS = ("each", "allgather", "window")
BATCHES = {"32x64": (16, 12), "121x240": (4, 5)}  # examples of a batch, batches of a timing
MOST_CPU = 0.6  # of `each`, for files stored step by step
MOST_WAIT = 0.02


def windows(made: Catalogue) -> ForecastWindows:
    """Return windows of a step and the next one, normalised."""
    mean, std = scales()
    nothing = np.empty((0, *made.shape[1:]), np.float32)
    atmosphere = Atmosphere(Reader(made, mean=mean, std=std), nothing, use_calendar=False)
    first = torch.arange(len(made.times) - 1)
    ratio = np.ones(made.shape[0], np.float32)
    return ForecastWindows(atmosphere, torch.stack([first, first + 1], 1), 1, ratio)


class Way:
    """A contender: opens a feed, takes some batches, closes it.

    Attributes
    ----------
    amplification
        Bytes that this rank has asked of files for a batch, over those of the batch.
    """

    def __init__(self, world: hb.World, made: Catalogue, way: str, size: int, count: int) -> None:
        self._batches = Batches(windows(made), batch_size=size, world=world)
        self._sharing = Sharing(
            world, self._batches, asked=way, reads_files=True, stall_timeout_s=0.0
        )
        self._sharing.choose(range(count))
        self._count, self._next = count, 0
        self.amplification = 0.0

    def __call__(self) -> None:
        feed = self._sharing.open(range(self._next, self._next + self._count))
        self._next += self._count
        for _ in range(self._count):
            next(feed)
        feed.close()
        reads = feed.reads
        self.amplification = reads.bytes / reads.all_batch_bytes


def sleeping_barrier(comm: MPI.Comm) -> None:
    """Collective: wait for all ranks without keeping a core busy."""
    arrived = comm.Ibarrier()
    while not arrived.Test():
        time.sleep(1e-3)


@contextmanager
def files(comm: MPI.Comm, name: str) -> Iterator[Path]:
    """Collective: give a folder with the files of a grid in ``source``."""
    rows, columns, steps, _ = GRIDS[name]
    folder = Path(comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None))
    if comm.rank == 0:
        (folder / "source").mkdir()
        write(folder / "source", rows, columns, steps)
    sleeping_barrier(comm)
    try:
        yield folder
    finally:
        sleeping_barrier(comm)
        if comm.rank == 0:
            shutil.rmtree(folder)


def measure(comm: MPI.Comm, world: hb.World, name: str, *, rounds: int) -> None:
    """Collective: time the ways on one grid and publish them as ``share-NAME``."""
    size, count = BATCHES[name]
    with files(comm, name) as folder:
        source = chosen(folder / "source")
        if comm.rank == 0:
            repack(source, folder / "cache")
        sleeping_barrier(comm)
        sources = {"netCDF": source, "cache": catalogue(folder / "cache").select(source.names)}
        built = {
            (kind, way): Way(world, made, way, size, count)
            for kind, made in sources.items()
            for way in WAYS
        }
        runs: dict[str, Callable[[], object]] = {" ".join(k): way for k, way in built.items()}
        timings = interleave(runs, rounds=rounds, ready=partial(sleeping_barrier, comm))
    read = {key: way.amplification for key, way in built.items()}
    gathered = comm.gather((timings, read))
    if gathered is None:
        return
    rows: list[Row] = []
    cpu_ms: dict[tuple[str, str], float] = {}
    for key in built:
        every = [of_rank[" ".join(key)] for of_rank, _ in gathered]
        cpu = spread([1e3 * total / count for total in _summed(every)])
        wall = spread([1e3 * longest / count for longest in _longest(every)])
        cpu_ms[key] = cpu.median
        rows.append(
            {
                "source": key[0],
                "share": key[1],
                "cpu_ms": cpu.median,
                "q1": cpu.lower,
                "q3": cpu.upper,
                "of_each": cpu.median / cpu_ms[key[0], "each"],
                "wall_ms": wall.median,
                "bytes_of_batch": sum(of_rank[key] for _, of_rank in gathered),
                "rounds": rounds,
            }
        )
    goals = [
        Target(
            "CPU time, netCDF: window / each",
            cpu_ms["netCDF", "window"] / cpu_ms["netCDF", "each"],
            most=MOST_CPU,
        ),
        *(
            Target(
                f"bytes of a batch, {r['source']}, {r['share']}",
                float(r["bytes_of_batch"]),
                most=1.0,
            )
            for r in rows
            if r["share"] != "each"
        ),
    ]
    publish(f"share-{name}", rows, goals)


def _summed(every: list[list[Timing]]) -> list[float]:
    return [sum(run.cpu_s for run in runs) for runs in zip(*every, strict=True)]


def _longest(every: list[list[Timing]]) -> list[float]:
    return [max(run.wall_s for run in runs) for runs in zip(*every, strict=True)]


def swin(comm: MPI.Comm, world: hb.World, *, steps: int) -> None:
    """Collective: train on files of 121 x 240 each way; publish the waits as ``share-swin``."""
    rows: list[Row] = []
    goals = []
    with files(comm, "121x240") as folder:
        for share in ("each", "window"):
            settings = load_settings(
                CONFIGS / "swin_era5.yaml",
                [
                    f"data.path={folder / 'source'}",
                    f"data.share={share}",
                    f"data.variables=[{','.join((*SURFACE, *UPPER))}]",
                    f"data.levels=[{','.join(map(str, LEVELS))}]",
                    "data.static=[]",
                    "data.statistics=null",
                    "data.step_hours=6",
                    "data.train=['2001-01-01', '2001-01-24']",
                    "data.validation=['2001-01-25', '2001-01-25']",
                    "data.test=['2001-01-26', '2001-01-30']",
                    "posterior.samples=2",
                    "train.batch_size=2",
                    "train.epochs=0",
                    f"train.steps={steps}",
                    "train.precision=float32",
                    "train.device=cpu",
                ],
            )
            summary = train(settings, world, RunFolder(folder / f"run-{share}"))
            data = summary["data"]
            rows.append(
                {
                    "share": share,
                    "step_s": summary["step_time_s"]["median"],
                    "wait_share": data["wait_share"],
                    "bytes_of_batch": data["read_amplification"],
                    "steps": steps,
                }
            )
            goals.append(Target(f"wait for data, {share}", data["wait_share"], most=MOST_WAIT))
    if comm.rank == 0:
        publish("share-swin", rows, goals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", help=f"of {', '.join(BATCHES)}, swin; none: all")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="of the run with swin")
    arguments = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.size < 2:
        parser.error("one rank: start it with mpirun -n 2")
    torch.set_num_threads(1)
    world = hb.start(sample_ranks=comm.size, device="cpu")
    for what in arguments.what or [*BATCHES, "swin"]:
        if what == "swin":
            swin(comm, world, steps=arguments.steps)
        elif what in BATCHES:
            measure(comm, world, what, rounds=arguments.rounds)
        else:
            parser.error(f"{what}: expected one of {', '.join(BATCHES)}, swin")
    world.stop()


if __name__ == "__main__":
    main()
