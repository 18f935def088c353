"""``hpc-bnn run -n 4 WORDS``: start a command or a script on several ranks of this machine.

The ranks are in a session of their own, so that Ctrl-C reaches this process only. mpirun and srun
would kill ranks that they are told to end; USR2 they pass on, and ranks that listen
(``hpc_bnn.train.run.stop``) then end in good order. It is sent again until they have ended: ranks
that are just starting ignore it.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from hpc_bnn.cli.arguments import command_names
from hpc_bnn.parallel.control import END
from hpc_bnn.parallel.launcher import launched_size
from hpc_bnn.parallel.site import (
    Site,
    in_allocation,
    launcher_words,
    rank_environment,
    read_site,
)
from hpc_bnn.spelling import nearest

SIGNAL = signal.SIGUSR2
ASKS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, SIGNAL)
AGAIN_S = 2.0  # between two times that ranks are asked
LOOK_S = 0.1
DEAF_S = 60.0  # after which a launcher that never listened is ended
MOST_PER_CORE = 64  # ranks: a launcher that is to start very many is busy for ever
KILL_S = 5.0  # after a launcher was told to end at once
INTERRUPTED = 128 + signal.SIGINT
# A rank ignores the signal until its program listens.
IGNORING = ("sh", "-c", 'trap "" USR1 USR2; exec "$@"', "rank")
HEAD = "hpc-bnn run: "


def run_command(options: argparse.Namespace) -> int:
    """Start the ranks, wait for them and return the status of the job."""
    try:
        program = program_words(options.words, command_names())
        site, environment = read_site(), dict(os.environ)
        words = start_words(site, environment, options.ranks)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{HEAD}{error}\n")
        return 2
    slurm = words[0] == "srun"
    ranks = None if slurm else options.ranks
    environment = rank_environment(site, environment, ranks=ranks)
    whole = [*words, *IGNORING, *program]
    if options.verbosity > 0:
        sys.stderr.write(f"{HEAD}{shlex.join(whole)}\n")
    # Ranks on other nodes see the folder that they work in, but not this node's /tmp.
    folder = Path.cwd() if slurm and os.access(Path.cwd(), os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".hpc-bnn-run-", dir=folder) as place:
        end = Path(place) / "status"
        return Ranks(whole, {**environment, END: str(end)}, end).wait()


def program_words(words: Sequence[str], commands: Collection[str]) -> list[str]:
    """Return the words of one rank: a command of hpc-bnn, a script, or ``-m MODULE``.

    Raises
    ------
    ValueError
        If it is none of these, or mpi4py, under which each rank runs, is not there.
    """
    words = list(words[1:] if words[:1] == ["--"] else words)
    if not words:
        raise ValueError("nothing to start; such as hpc-bnn run -n 4 train CONFIG --run DIR")
    if find_spec("mpi4py") is None:
        raise ValueError(
            "mpi4py is not installed; pip install 'hpc_bnn[mpi]', or mpi4py against the MPI of "
            "this machine"
        )
    first, start = words[0], [sys.executable, "-u", "-m", "mpi4py"]  # ends all where one fails
    if first in commands and first != "run":
        return [*start, "-m", "hpc_bnn", *words]
    if (first == "-m" and len(words) > 1) or Path(first).is_file():
        return [*start, *words]
    raise ValueError(
        f"{first}: neither a command of hpc-bnn nor a file; expected such as train, a script, or "
        f"-m MODULE{nearest(first, commands)}"
    )


def start_words(site: Site, environment: Mapping[str, str], ranks: int | None) -> list[str]:
    """Return the launcher with the number of ranks.

    Raises
    ------
    ValueError
        If this process is a rank itself, nothing says how many ranks to start, or they are more
        than a machine can hold.
    FileNotFoundError
        If there is no launcher.
    """
    variable, size = launched_size(environment)
    if size > 1 or variable.startswith(("OMPI", "PMI")):
        raise ValueError(f"{variable} = {size}: this process is a rank already; start it alone")
    words = launcher_words(site, environment)
    most = MOST_PER_CORE * (os.cpu_count() or 1)
    if ranks is not None and ranks > most and not in_allocation(environment):
        raise ValueError(
            f"-n {ranks}: this machine has {os.cpu_count()} cores; expected at most {most} ranks, "
            f"{MOST_PER_CORE} a core"
        )
    if ranks is not None:
        return [*words, "-n", str(ranks)]
    if in_allocation(environment):  # srun starts what the job asked for
        return words
    raise ValueError("-n is missing: how many ranks to start, such as hpc-bnn run -n 4 ...")


class Ranks:
    """A launcher and the ranks that it started, in a session of their own.

    end: the file into which ranks write the status that they end with together.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], end: Path) -> None:
        self._end, self._asked, self._interrupts = end, 0, 0
        # nohup, and a shell that starts a command in the background, let it ignore some.
        heard = [n for n in ASKS if n == SIGNAL or signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heard}
        stdin = subprocess.DEVNULL if sys.stdin is None or sys.stdin.isatty() else None
        self._process = subprocess.Popen(
            words, env=dict(environment), stdin=stdin, start_new_session=True
        )

    def wait(self) -> int:
        """Wait for the end of all ranks and return the status of the job."""
        told, sent, asked_at, ended_at = False, 0.0, 0.0, 0.0
        while True:
            try:
                status = self._process.wait(LOOK_S)
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if self._asked and not told:
                told, asked_at = True, now
                sys.stderr.write(f"{HEAD}asked all ranks to stop; Ctrl-C again ends them at once\n")
            heard = told and listens(self._process.pid)
            deaf = told and not (heard or sent) and now - asked_at > DEAF_S
            if self._interrupts > 1 or deaf or ended_at:
                if not ended_at:
                    ended_at = now
                    self._process.send_signal(signal.SIGTERM)
                elif now - ended_at > KILL_S:
                    os.killpg(self._process.pid, signal.SIGKILL)
            elif heard and now - sent > AGAIN_S:
                sent = now
                self._process.send_signal(SIGNAL)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        return self._status(status)

    def _status(self, status: int) -> int:
        if self._interrupts > 1:
            return INTERRUPTED
        # Reading the folder, unlike looking for the name, sees what another node wrote on NFS.
        if status == 0 and self._end in self._end.parent.iterdir():
            return int(self._end.read_text(encoding="utf-8"))
        return status if status >= 0 else 128 - status

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = number
        self._interrupts += number == signal.SIGINT


def listens(process: int) -> bool:
    """Tell whether a process catches the signal, or blocks it to wait for it as srun does; before,
    it would end by it.
    """
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:  # it has ended, or this is not Linux
        return True
    masks = [line.split()[1] for line in text.splitlines() if line.startswith(("SigCgt", "SigBlk"))]
    return any(int(mask, 16) >> (SIGNAL - 1) & 1 for mask in masks)
