"""A user's training script, some of whose ranks misbehave at the fourth step.

``user_script.py MODE LOSS [STALL_TIMEOUT_S [ENGINE]]``, MODE one of

    well     all ranks train
    raise    world rank 1 raises
    exit     world rank 1 leaves with status 3
    sleep    world rank 1 never comes
    spawn    every rank spawns a worker that runs this script again; it leaves with status 3 where
             that fails
    stop     world rank 1 of 2 x 2 is stopped by the system between the two stages of the reduction
"""

import multiprocessing
import os
import signal
import sys
import time
from typing import Any

import torch

import hpc_bnn as hb
from hpc_bnn.data import InMemory
from hpc_bnn.models import MODELS

STEPS, MISBEHAVES_AT = 8, 3


def misbehave(mode: str) -> None:
    if mode == "raise":
        raise ValueError("rank 1 lost its data")
    if mode == "exit":
        sys.exit(3)
    if mode == "sleep":
        time.sleep(600)


def stop_between_stages(step: hb.Step) -> None:
    """Stop this process after it has told its loss, before it sends gradients along the data axis.

    No thread of it goes on, so Horovod, whose ranks meet all the time, cannot end the job either.
    """

    def stop(unused: object) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    step._gradients._reducer.wait = stop  # type: ignore[method-assign]


def main(mode: str, loss_name: str, stall_timeout_s: str = "0", engine: Any = "auto") -> None:
    sample_ranks: Any = 2 if mode == "stop" else "auto"
    world = hb.start(
        sample_ranks=sample_ranks, engine=engine, stall_timeout_s=float(stall_timeout_s)
    )
    if mode == "spawn":
        worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(0,))
        worker.start()
        worker.join()
        sys.exit(3 if worker.exitcode else 0)
    torch.manual_seed(0)
    examples = InMemory(torch.randn(64, 5), torch.randn(64, 3))
    loss = hb.losses.LOSSES[loss_name]()
    posterior = hb.Gaussian(MODELS["mlp"]((5,), (3,), hidden=(8,)))
    optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-3)
    step = hb.Step(
        posterior,
        loss,
        optimizer,
        world,
        samples=4,
        num_examples=len(examples),
        reduction="two_stage" if mode == "stop" else "world",
    )
    loader = hb.Batches(examples, batch_size=8, world=world)
    for i in range(STEPS):
        if i == MISBEHAVES_AT and world.grid.world_rank == 1:
            misbehave(mode)
            if mode == "stop":
                stop_between_stages(step)
        value = step(*loader.at(i))
        if world.is_first:
            print(f"step {i} loss {float(value):.17g}", flush=True)


# A worker knows this file by another name; that it is run there, too, is the mistake of "spawn".
if __name__ == "__main__" or sys.argv[1:2] == ["spawn"]:
    main(*sys.argv[1:])
