"""A user's training script that lets itself be stopped: ``stopping_script.py STATE``."""

import sys
import time
from pathlib import Path

import torch

import hpc_bnn as hb
from hpc_bnn.data import InMemory

torch.manual_seed(0)
examples = InMemory(torch.randn(64, 5), torch.randn(64, 3))
world = hb.start()
posterior = hb.Gaussian(torch.nn.Linear(5, 3))
optimizer = torch.optim.Adam(posterior.parameters(), lr=1e-3)
loss = hb.losses.gaussian_nll()
step = hb.Step(posterior, loss, optimizer, world, samples=4, num_examples=len(examples))
loader = hb.Batches(examples, batch_size=8, world=world)
with hb.Stop(world.all_ranks) as stop:
    for i in range(100_000):
        step(*loader.at(i))
        if world.is_first and i == 3:
            print("training", flush=True)
        if reason := stop.due():  # the same on every rank
            if world.is_first:
                torch.save(posterior.state_dict(), Path(sys.argv[1]))
                print(f"{reason}: saved", flush=True)
            break
        time.sleep(0.01)
