"""A training step that has the machine for itself although ranks of a job are alive on it.

Ranks that wait still cost: MPI polls, and Horovod's background threads wake every cycle; one rank
measured beside them looks slower than it is, which flatters several ranks. So the step of one rank
runs in a process of its own, which stops the ranks (SIGSTOP) for as long as the step takes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import contenders
import torch
from interleave import Timing, timed
from networks import TASKS


class Alone:
    """A contender: each call runs one step in the other process and notes its timing.

    Parameters
    ----------
    network, samples
        What is trained, as in ``networks.TASKS``.
    ranks
        Process ids of all ranks, on this machine; the caller is one of them.
    """

    def __init__(self, network: str, samples: int, ranks: Sequence[int]) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), network, str(samples)]
        self._process = subprocess.Popen(
            command + [str(rank) for rank in ranks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.timings: list[Timing] = []

    def __call__(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        print("step", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of one rank ended with {self._process.wait()}")
        self.timings.append(Timing(**json.loads(answer)))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(network: str, samples: int, ranks: Sequence[int]) -> None:
    """Answer each line on stdin with the timing of one step, taken while ``ranks`` are stopped."""
    torch.set_num_threads(1)
    step = contenders.hb_step(TASKS[network](), samples=samples, keep_noise=False)
    for _ in sys.stdin:
        try:
            for rank in ranks:
                os.kill(rank, signal.SIGSTOP)
            timing = timed(step)
        finally:
            for rank in ranks:
                os.kill(rank, signal.SIGCONT)
        print(json.dumps(asdict(timing)), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), [int(argument) for argument in sys.argv[3:]])
