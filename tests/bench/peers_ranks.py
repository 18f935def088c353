"""hb.Step beside a plain DistributedDataParallel loop on several ranks, one batch, shared samples.

    python tests/bench/peers_ranks.py                 mlp on 2 ranks
    python tests/bench/peers_ranks.py vit swin --ranks 2 --rounds 6

Both share the weight samples of ``peers.WORKLOADS`` among the ranks. DDP exchanges gradients by
gloo, ``hb.Step`` by Horovod over MPI; their steps take turns in random order, after a barrier, and
a step takes as long as its slowest rank. Each rank uses one thread; run it on a machine with a free
core a rank.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from contenders import bayesian
from interleave import interleave
from job import run_ranks
from peer_models import PlainTorch
from peers import WORKLOADS
from report import publish
from torch import distributed

import hpc_bnn as hb

OURS, PEER = "hb.Step", "plain torch, DDP(gloo)"


def on_ranks(networks: list[str], rounds: int) -> None:
    """Collective: time both contenders on the ranks of this job."""
    from mpi4py import MPI
    from ranks import _slowest, row, sleeping_barrier

    comm = MPI.COMM_WORLD
    torch.set_num_threads(1)
    folder = comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None, root=0)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=comm.rank, world_size=comm.size
    )
    world = hb.start(sample_ranks=comm.size, device="cpu")
    for network in networks:
        workload = WORKLOADS[network]
        task, samples = workload.task(), workload.samples
        step = bayesian(task, samples=samples, keep_noise=False, world=world)
        plain = PlainTorch(task, samples=samples // comm.size, seed=1 + comm.rank)
        built: dict[str, Callable[[], object]] = {
            OURS: lambda step=step, task=task: step(task.x, task.y),  # type: ignore[misc]
            PEER: plain.step,
        }
        timings = interleave(built, rounds=rounds, ready=lambda: sleeping_barrier(comm))
        gathered = comm.gather(timings, root=0)
        if gathered is not None:
            rows = [
                row(name, _slowest([of_rank[name] for of_rank in gathered]), []) for name in built
            ]
            publish(f"peers-{network}-{comm.size}-ranks", rows)
    distributed.destroy_process_group()
    world.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("networks", nargs="*", help=f"of {', '.join(WORKLOADS)}; none: mlp")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    networks = arguments.networks or ["mlp"]
    for network in networks:
        if network not in WORKLOADS:
            parser.error(f"{network}: expected one of {', '.join(WORKLOADS)}")
        if WORKLOADS[network].samples % arguments.ranks:
            parser.error(f"{arguments.ranks} ranks do not share its {WORKLOADS[network].samples}")
    if "OMPI_COMM_WORLD_SIZE" in os.environ:
        on_ranks(networks, arguments.rounds)
        return
    options = ["--ranks", str(arguments.ranks), "--rounds", str(arguments.rounds)]
    run_ranks(arguments.ranks, str(Path(__file__)), [*networks, *options])


if __name__ == "__main__":
    main()
