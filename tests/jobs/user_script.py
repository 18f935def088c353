"""A user's training script, some of whose ranks misbehave at the fourth step.

``user_script.py MODE LOSS [STALL_TIMEOUT_S]``, MODE one of

    well     all ranks train
    raise    world rank 1 raises
    exit     world rank 1 leaves with status 3
    sleep    world rank 1 never comes
"""

import sys
import time

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


def main(mode: str, loss_name: str, stall_timeout_s: float) -> None:
    world = hb.start(sample_ranks="auto", stall_timeout_s=stall_timeout_s)
    torch.manual_seed(0)
    examples = InMemory(torch.randn(64, 5), torch.randn(64, 3))
    loss = hb.losses.LOSSES[loss_name]()
    posterior = hb.Gaussian(MODELS["mlp"]((5,), (3,), hidden=(8,)))
    optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-3)
    step = hb.Step(posterior, loss, optimizer, world, samples=4, num_examples=len(examples))
    loader = hb.Batches(examples, batch_size=8, world=world)
    for i in range(STEPS):
        if i == MISBEHAVES_AT and world.grid.world_rank == 1:
            misbehave(mode)
        value = step(*loader.at(i))
        if world.is_first:
            print(f"step {i} loss {float(value):.17g}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
