"""The command line, where some ranks fail: ``failing_rank.py FAULT RANKS WORDS...``, or a command
of ``commands.py``.

RANKS are world ranks with commas between; FAULT is what happens to each of them alone, while the
others go on into their next exchange:

    gpu        its GPU fails when its properties are asked for; every rank sees one
    driver     its GPUs cannot be counted
    horovod    Horovod is not installed on its node
    file       a file of its batch is gone at the fourth step
    step       its fourth step raises a user's error that names the rank
    bug        its fourth step raises an error that no user can mend
    exit       its fourth step leaves Python with status 0
    memory     its fourth step finds no memory
    disk       the disk is full when it writes its third row of metrics
    close      the disk is full when it closes the metrics behind the last step
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from mpi4py import MPI

from hpc_bnn.cli.program import main
from hpc_bnn.data import Batches
from hpc_bnn.train.run.log import Metrics
from hpc_bnn.train.step.step import Step

RANK = MPI.COMM_WORLD.rank


def fail(error: BaseException) -> NoReturn:
    raise error


def call_fails(owner: Any, name: str, error: BaseException, *, call: int) -> Any:
    """Make the so-many-th call of a method raise."""
    method, calls = getattr(owner, name), []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return fail(error) if len(calls) == call else method(*arguments, **options)

    return patch.object(owner, name, called)


def broken_gpu(fails: bool) -> Any:
    error = RuntimeError("CUDA error: uncorrectable ECC error encountered")
    return patch.multiple(
        torch.cuda,
        device_count=lambda: 1,
        get_device_properties=lambda device: (
            fail(error) if fails else SimpleNamespace(uuid=f"GPU-{RANK}")
        ),
    )


def broken_driver(fails: bool) -> Any:
    error = RuntimeError("CUDA driver initialization failed")
    return patch.object(torch.cuda, "device_count", lambda: fail(error) if fails else 0)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")
GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "era5_2017.nc")
STEP = {
    "step": ValueError(f"rank {RANK} lost its data"),
    "bug": KeyError("nobody expected this"),
    "exit": SystemExit(0),
    "memory": MemoryError("Unable to allocate 7.45 GiB for an array"),
}


@contextlib.contextmanager
def provoked(fault: str, ranks: str) -> Iterator[None]:
    """Have a fault on some ranks, in this block."""
    fails = str(RANK) in ranks.split(",")
    with contextlib.ExitStack() as stack:
        if fault == "gpu":
            stack.enter_context(broken_gpu(fails))
        elif fault == "driver":
            stack.enter_context(broken_driver(fails))
        elif fails and fault == "horovod":
            stack.enter_context(patch.dict(sys.modules, {"horovod.torch": None}))
        elif fails and fault == "file":
            stack.enter_context(call_fails(Batches, "at", GONE, call=4))
        elif fails and fault == "disk":
            stack.enter_context(call_fails(Metrics, "write", FULL, call=3))
        elif fails and fault == "close":
            stack.enter_context(call_fails(Metrics, "close", FULL, call=1))
        elif fails:
            stack.enter_context(call_fails(Step, "__call__", STEP[fault], call=4))
        yield


if __name__ == "__main__":
    with provoked(sys.argv[1], sys.argv[2]):
        sys.exit(main(sys.argv[3:]))
