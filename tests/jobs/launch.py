"""Start whole jobs as a user does, ``mpirun -n N python -m mpi4py ...``, and see how they end.

The launcher is the mpirun beside this Python, or what HPC_BNN_LAUNCHER says, such as
``mpirun --oversubscribe``; ``-n N`` is added.
"""

import contextlib
import io
import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpc_bnn.cli.program import main

LIMIT_S = 120.0
COMMAND_S = 15.0  # and so long for each command of one job
COMMANDS = Path(__file__).with_name("commands.py")

# Set where the environment of this site does not (modules/sites/local.cmake).
DEFAULTS = {
    "OMP_NUM_THREADS": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
# What the tests say about hanging jobs must be what ends them here.
LEFT_OUT = ("HOROVOD_STALL_CHECK_TIME_SECONDS", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS")


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def text(self) -> str:
        return f"status {self.status} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


class Job:
    """A running job of ``ranks`` ranks; 0 ranks: a plain process without a launcher."""

    def __init__(self, *arguments: str | Path, ranks: int, cwd: Path, aborts: bool = True) -> None:
        python = [sys.executable, *(["-m", "mpi4py"] if aborts and ranks else [])]
        launch = [*_launcher(), "-n", str(ranks)] if ranks else []
        environment = {k: v for k, v in os.environ.items() if k not in LEFT_OUT}
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            [*launch, *python, *map(str, arguments)],
            cwd=cwd,
            env={**DEFAULTS, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._ranks = ranks

    def ranks(self) -> dict[int, int]:
        """Return the process of each world rank, once all have started."""
        while len(found := _ranks_below(self.process.pid)) < self._ranks:
            if self.process.poll() is not None:
                raise AssertionError(f"the job ended early\n{self.wait().text}")
            time.sleep(0.02)
        return found

    def wait(self, limit_s: float = LIMIT_S) -> Ended:
        """Wait for the end; a job that outlives the limit is killed and fails the test."""
        try:
            out, err = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            ranks = _ranks_below(self.process.pid)
            self.process.kill()
            for pid in ranks.values():
                os.kill(pid, signal.SIGKILL)
            out, err = self.process.communicate()
            raise AssertionError(f"the job hung for {limit_s} s\n{out}\n{err}") from None
        seconds = time.monotonic() - self._began
        return Ended(self.process.returncode, out, err, seconds)


def run(*arguments: str | Path, ranks: int, cwd: Path, aborts: bool = True) -> Ended:
    """Run a job to its end; ``aborts``: under ``python -m mpi4py``."""
    return Job(*arguments, ranks=ranks, cwd=cwd, aborts=aborts).wait()


def run_commands(*commands: Sequence[str | Path], ranks: int, cwd: Path) -> list[Ended]:
    """Run several commands of ``hpc-bnn`` in one job, one after the other, and return how each
    ended, with what all its ranks said: starting Python on every rank takes most of the time.
    """
    folder = Path(tempfile.mkdtemp(prefix="said-", dir=cwd))
    words = [list(map(str, command)) for command in commands]
    (folder / "commands.json").write_text(json.dumps(words), encoding="utf-8")
    started = Job(COMMANDS, folder, ranks=ranks, cwd=cwd)
    job = started.wait(LIMIT_S + COMMAND_S * len(commands))

    def said(i: int, suffix: str) -> list[str]:
        files = [folder / f"{i}.{rank}.{suffix}" for rank in range(ranks)]
        assert all(file.exists() for file in files), f"{words[i]} did not end\n{job.text}"
        return [file.read_text(encoding="utf-8") for file in files]

    found = []
    for i in range(len(words)):
        out, err = "".join(said(i, "out")), "".join(said(i, "err"))
        (status,) = set(said(i, "status"))  # the same on every rank
        found.append(Ended(int(status), out, err, job.seconds))
    assert job.status == max(ended.status for ended in found), job.text
    return found


def run_here(*words: str | Path, cwd: Path) -> Ended:
    """Run one command of ``hpc-bnn`` in this process, alone, without a start of Python."""
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    logger = logging.getLogger("hpc_bnn")
    handlers, level = logger.handlers, logger.level
    try:
        with (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            status = main([str(word) for word in words])
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    return Ended(status, out.getvalue(), err.getvalue(), time.monotonic() - began)


def is_running(pid: int) -> bool:
    """Return whether a process has not ended; one that nobody has waited for yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _launcher() -> list[str]:
    given = os.environ.get("HPC_BNN_LAUNCHER")
    if given:
        return shlex.split(given)
    beside = Path(sys.executable).with_name("mpirun")
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise FileNotFoundError("no mpirun beside this Python and none on PATH")
    return [found, "--oversubscribe"]


def _ranks_below(launcher: int) -> dict[int, int]:
    """Return world rank -> process, of the descendants of a process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(entry.name)] = int(fields[1])
    found = {}
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != launcher:
            ancestor = parents[ancestor]
        if ancestor == launcher and (rank := _world_rank(pid)) is not None:
            found[rank] = pid
    return found


def _world_rank(pid: int) -> int | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    named = dict(item.partition(b"=")[::2] for item in environment)
    rank = named.get(b"OMPI_COMM_WORLD_RANK", named.get(b"PMIX_RANK", b""))
    return int(rank) if rank.isdigit() else None
