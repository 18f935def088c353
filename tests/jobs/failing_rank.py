"""The command line, where some ranks fail: ``failing_rank.py FAULT RANKS WORDS...``.

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

import errno
import os
import sys
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from mpi4py import MPI

from hpc_bnn.cli.program import main
from hpc_bnn.data import Batches
from hpc_bnn.train.run.log import Metrics
from hpc_bnn.train.step.step import Step

RANK = MPI.COMM_WORLD.rank


def fail(error: BaseException) -> NoReturn:
    raise error


def fail_at(owner: Any, name: str, error: BaseException, *, call: int) -> None:
    """Make the so-many-th call of a method raise."""
    method, calls = getattr(owner, name), []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return fail(error) if len(calls) == call else method(*arguments, **options)

    setattr(owner, name, called)


def break_gpu(fails: bool) -> None:
    cuda: Any = torch.cuda
    error = RuntimeError("CUDA error: uncorrectable ECC error encountered")
    cuda.device_count = lambda: 1
    cuda.get_device_properties = lambda device: (
        fail(error) if fails else SimpleNamespace(uuid=f"GPU-{RANK}")
    )


def break_driver(fails: bool) -> None:
    cuda: Any = torch.cuda
    error = RuntimeError("CUDA driver initialization failed")
    cuda.device_count = lambda: fail(error) if fails else 0


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")
GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "era5_2017.nc")
STEP = {
    "step": ValueError(f"rank {RANK} lost its data"),
    "bug": KeyError("nobody expected this"),
    "exit": SystemExit(0),
    "memory": MemoryError("Unable to allocate 7.45 GiB for an array"),
}


def provoke(fault: str, fails: bool) -> None:
    if fault == "gpu":
        break_gpu(fails)
    elif fault == "driver":
        break_driver(fails)
    elif fails and fault == "horovod":
        sys.modules["horovod.torch"] = None  # type: ignore[assignment]
    elif fails and fault == "file":
        fail_at(Batches, "at", GONE, call=4)
    elif fails and fault == "disk":
        fail_at(Metrics, "write", FULL, call=3)
    elif fails and fault == "close":
        fail_at(Metrics, "close", FULL, call=1)
    elif fails:
        fail_at(Step, "__call__", STEP[fault], call=4)


if __name__ == "__main__":
    provoke(sys.argv[1], str(RANK) in sys.argv[2].split(","))
    sys.exit(main(sys.argv[3:]))
