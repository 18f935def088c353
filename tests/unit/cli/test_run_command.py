"""``hpc-bnn run``: what it starts, and what it does with signals and statuses; a small program
stands for mpirun. Real ranks: ``tests/jobs/test_started_ranks.py``.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpc_bnn.cli.run_command import program_words, start_words
from hpc_bnn.parallel.control import END, settle
from hpc_bnn.parallel.site import Site

START = [sys.executable, "-u", "-m", "mpi4py"]
COMMANDS = ("train", "evaluate", "run")
# Stands for mpirun: passes USR2 on to its only rank, and ends it when it is told to end.
LAUNCHER = f"""#!{sys.executable}
import signal, subprocess, sys
if sys.argv[1:] == ["--version"]:
    sys.exit(print("mpirun (Open MPI) 5.0.11"))
rank = subprocess.Popen(sys.argv[sys.argv.index("-n") + 2:])
signal.signal(signal.SIGUSR2, lambda number, frame: rank.send_signal(number))
def end(number, frame):
    rank.kill()
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
while True:
    try:
        sys.exit(rank.wait(0.1) % 256)
    except subprocess.TimeoutExpired:
        pass
"""
# A rank that listens after a while, and leaves as ``hpc-bnn train`` does.
RANK = f"""
import os, signal, sys, time
def leave(number, frame):
    print("saved", flush=True)
    open(os.environ["{END}"], "w").write("85")
    os._exit(0)
print(os.environ["SAYS"], flush=True)
if sys.argv[1] == "listens":
    time.sleep(0.5)
    signal.signal(signal.SIGUSR2, leave)
    print("listens", flush=True)
if sys.argv[1] == "ends":
    sys.exit(int(sys.argv[2]))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "x.yaml", "--run", "y"], ["-m", "hpc_bnn", "train", "x.yaml", "--run", "y"]),
        (["--", "evaluate", "x"], ["-m", "hpc_bnn", "evaluate", "x"]),
        (["-m", "mine.train", "-n", "3"], ["-m", "mine.train", "-n", "3"]),
        ([__file__, "-m"], [__file__, "-m"]),
    ],
)
def test_what_a_rank_runs(words: list[str], expected: list[str]) -> None:
    assert program_words(words, COMMANDS) == [*START, *expected]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "nothing to start"),
        (["--"], "nothing to start"),
        (["run", "-n", "2"], "run: neither a command of hpc-bnn nor a file"),
        (["trian"], "trian: neither a command of hpc-bnn nor a file; .*; did you mean train?"),
        (["-m"], "-m: neither a command"),
        (["none.py"], "none.py: neither a command of hpc-bnn nor a file"),
    ],
)
def test_what_cannot_be_started(words: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        program_words(words, COMMANDS)


def test_how_many_are_started(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(beside))
    assert start_words(Site(), {}, 4)[-2:] == ["-n", "4"]
    with pytest.raises(ValueError, match="-n is missing: how many ranks to start"):
        start_words(Site(), {}, None)
    for rank in ({"OMPI_COMM_WORLD_SIZE": "1"}, {"SLURM_STEP_NUM_TASKS": "2"}):
        with pytest.raises(ValueError, match="this process is a rank already"):
            start_words(Site(), rank, 4)
    with pytest.raises(ValueError, match=r"-n 1000000: this machine has .* a core"):
        start_words(Site(), {}, 1_000_000)
    (beside / "srun").write_text("")
    (beside / "srun").chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "PATH": str(beside)}
    assert "-n" not in start_words(Site(), job, None)


def test_a_status_that_ranks_end_with_together(tmp_path: Path) -> None:
    note = tmp_path / "status"
    assert settle(85, {}) == 85
    assert settle(0, {END: str(note)}) == 0
    assert not note.exists()
    assert settle(85, {END: str(note)}) == 0
    assert note.read_text() == "85\n"
    assert settle(2, {END: str(tmp_path / "none" / "status")}) == 2, "where it cannot be told"


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with the stand-in of mpirun."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "mpirun").write_text(LAUNCHER, encoding="utf-8")
    (folder / "mpirun").chmod(0o755)
    (folder / "rank.py").write_text(RANK, encoding="utf-8")
    return folder


class Run:
    """``hpc-bnn run -n 1`` of the stand-in, with a Python that seems to lie beside it."""

    def __init__(self, beside: Path, *words: str) -> None:
        program = (
            f"import sys; sys.executable = {str(beside / 'python')!r}\n"
            "from hpc_bnn.cli import run_command\n"
            f"run_command.program_words = lambda words, commands: [{sys.executable!r}, *words]\n"
            "run_command.DEAF_S = 1.0\n"
            "from hpc_bnn.__main__ import main; sys.exit(main())\n"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, "run", "-n", "1", str(beside / "rank.py"), *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "SAYS": "started"}, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self._out = self._process.stdout
        assert self.line() == "started\n"

    def line(self) -> str:
        return self._out.readline()

    def ask(self, number: signal.Signals) -> None:
        """Send a signal as a terminal does, to the whole group of the command."""
        os.killpg(self._process.pid, number)

    def end(self) -> tuple[int, str, str]:
        out, err = self._process.communicate(timeout=60)
        return self._process.returncode, out, err

    def kill(self) -> None:
        self._process.kill()


@pytest.fixture
def listening(beside: Path) -> Iterator[Run]:
    run = Run(beside, "listens")
    yield run
    run.kill()


TOLD = "hpc-bnn run: asked all ranks to stop; Ctrl-C again ends them at once\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2"])
def test_ranks_are_asked_until_they_listen(listening: Run, name: str) -> None:
    """The signal comes before they do; the status is theirs."""
    listening.ask(signal.Signals[name])
    assert listening.end() == (85, "listens\nsaved\n", TOLD)


def test_a_second_interrupt_ends_all_at_once(beside: Path) -> None:
    deaf = Run(beside, "deaf")
    deaf.ask(signal.SIGINT)
    time.sleep(0.5)
    began = time.monotonic()
    deaf.ask(signal.SIGINT)
    assert deaf.end() == (130, "", TOLD)
    assert time.monotonic() - began < 5


def test_a_launcher_that_never_listens_is_ended(beside: Path) -> None:
    path = beside / "mpirun"
    text = path.read_text().replace("signal.signal(signal.SIGUSR2", "(lambda *ignored: None)(0")
    path.write_text(text, encoding="utf-8")
    stuck = Run(beside, "deaf")
    stuck.ask(signal.SIGTERM)
    assert stuck.end() == (143, "", TOLD)


def test_a_job_outlives_the_terminal_where_nohup_asks_for_it(beside: Path) -> None:
    """What is ignored when a program starts stays ignored; here in this process, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = Run(beside, "listens")
    finally:
        signal.signal(signal.SIGHUP, before)
    run.ask(signal.SIGHUP)
    assert run.line() == "listens\n"
    time.sleep(0.5)
    run.ask(signal.SIGTERM)
    assert run.end() == (85, "saved\n", TOLD)


@pytest.mark.parametrize("status", [0, 7])
def test_the_status_is_that_of_the_job(beside: Path, status: int) -> None:
    assert Run(beside, "ends", str(status)).end() == (status, "", "")
