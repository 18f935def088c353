"""The command line, where some ranks fail: ``failing_rank.py FAULT RANKS WORDS...``, or a command
of ``commands.py``.

RANKS are world ranks with commas between; FAULT is what happens to each of them alone, while the
others go on into their next exchange:

    gpu        its GPU fails when its properties are asked for; every rank sees one
    driver     its GPUs cannot be counted
    horovod    Horovod is not installed on its node
    engine     it asks for another engine
    network    it reaches no port of rank 0
    words      it was started with one more word
    command    it was started with another command
    version    it has another version of this package
    data       it may not read the pack of its data set
    apart      it takes itself for a machine of its own, on a network of the one interface lo
    file       a file of its batch is gone at the fourth step
    step       its fourth step raises a user's error that names the rank
    bug        its fourth step raises an error that no user can mend
    exit       its fourth step leaves Python with status 0
    memory     its fourth step finds no memory
    stuck      it takes 6 s to read its first batch, and never comes out of its fourth step
    disk       the disk is full when it writes its third row of metrics
    close      the disk is full when it closes the metrics behind the last step
    killed     the system kills it when it has written the metrics of step 44
    slow       a validation takes a second for each batch
    reads      it reads its data set for a minute
    asked      it gets USR1 twice in its fourth step
"""

import contextlib
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import torch
from mpi4py import MPI

from hpc_bnn.bayes import Gaussian
from hpc_bnn.cli.arguments import parse
from hpc_bnn.cli.program import main
from hpc_bnn.data import Batches
from hpc_bnn.parallel.torch_dist import _store as store
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run import loop
from hpc_bnn.train.run.log import Metrics
from hpc_bnn.train.run.versions import versions_here
from hpc_bnn.train.step.step import Step

RANK = MPI.COMM_WORLD.rank
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")
GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "era5_2017.nc")
STEP = {
    "step": ValueError(f"rank {RANK} lost its data"),
    "bug": KeyError("nobody expected this"),
    "exit": SystemExit(0),
    "memory": MemoryError("Unable to allocate 7.45 GiB for an array"),
}


def fail(error: BaseException) -> NoReturn:
    raise error


def before(owner: Any, name: str, act: Callable[[], object], *, call: int) -> Any:
    """Do something before the so-many-th call of a method; 0: before each."""
    method, calls = getattr(owner, name), []

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if call in (0, len(calls)):
            act()
        return method(*arguments, **options)

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


def stuck() -> contextlib.ExitStack:
    both = contextlib.ExitStack()
    both.enter_context(before(Batches, "at", lambda: time.sleep(6), call=1))
    both.enter_context(before(Step, "__call__", lambda: time.sleep(600), call=4))
    return both


def killed() -> Any:
    write = Metrics.write

    def last(self: Metrics, row: Any) -> None:
        write(self, row)
        if row["step"] == 44:
            os.kill(os.getpid(), signal.SIGKILL)

    return patch.object(Metrics, "write", last)


def with_torch(*arguments: Any, **options: Any) -> Any:
    return start(*arguments, **{**options, "engine": "torch"})


def unreachable(ranks: Any, where: tuple[str, int], **options: Any) -> Any:
    return store(ranks, (where[0], 1), **options)


def started_with(words: Callable[[Sequence[str]], Sequence[str]]) -> Any:
    return patch("hpc_bnn.cli.program.parse", lambda given: parse(words(given)))


def apart() -> contextlib.ExitStack:
    both = contextlib.ExitStack()
    name = f"machine {RANK}"
    both.enter_context(patch("hpc_bnn.parallel.torch_dist.machine_name", lambda: name))
    both.enter_context(patch.dict(os.environ, {"NCCL_SOCKET_IFNAME": "lo"}))
    return both


def unreadable() -> contextlib.ExitStack:
    def refusing(read: Callable[..., Any]) -> Callable[..., Any]:
        def refused(file: Any, *arguments: Any, **options: Any) -> Any:
            if ".pack/" in str(file):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return read(file, *arguments, **options)

        return refused

    both = contextlib.ExitStack()
    for module in (io, os):
        both.enter_context(patch.object(module, "open", refusing(module.open)))
    return both


def validating() -> None:
    print("validating", flush=True)
    time.sleep(1.0)


def reading() -> None:
    print("reading", flush=True)
    for _ in range(600):
        time.sleep(0.1)


def asked() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR1)


def provoked(fault: str, ranks: str) -> AbstractContextManager[object]:
    """Have a fault on some ranks, in the block of a ``with``."""
    fails = str(RANK) in ranks.split(",")
    if fault in ("gpu", "driver"):
        return broken_gpu(fails) if fault == "gpu" else broken_driver(fails)
    if not fails:
        return contextlib.nullcontext()
    if fault in STEP:
        return before(Step, "__call__", lambda: fail(STEP[fault]), call=4)
    provoke: dict[str, Callable[[], Any]] = {
        "horovod": lambda: patch.dict(sys.modules, {"horovod.torch": None}),
        "engine": lambda: patch("hpc_bnn.cli.program.start", with_torch),
        "network": lambda: patch.multiple(
            "hpc_bnn.parallel.torch_dist", MEET_S=1.0, _store=unreachable
        ),
        "version": lambda: patch.object(
            loop, "versions_here", lambda: {**versions_here(), "hpc_bnn": "0.0.1"}
        ),
        "data": unreadable,
        "words": lambda: started_with(lambda words: [*words, "evaluation.starts=3"]),
        "command": lambda: started_with(lambda words: ["doctor"]),
        "apart": apart,
        "file": lambda: before(Batches, "at", lambda: fail(GONE), call=4),
        "stuck": stuck,
        "disk": lambda: before(Metrics, "write", lambda: fail(FULL), call=3),
        "close": lambda: before(Metrics, "close", lambda: fail(FULL), call=1),
        "killed": killed,
        "slow": lambda: before(Gaussian, "predict", validating, call=0),
        "reads": lambda: before(loop, "read_source", reading, call=1),
        "asked": lambda: before(Step, "__call__", asked, call=4),
    }
    return provoke[fault]()  # type: ignore[no-any-return]


if __name__ == "__main__":
    with provoked(sys.argv[1], sys.argv[2]):
        sys.exit(main(sys.argv[3:]))
