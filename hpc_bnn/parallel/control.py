"""How a job ends where ranks fail or leave: what they say, on a communicator of its own, and what
becomes of it: messages, printed once, and one exit status.

A rank that fails while the others are in an exchange of data must not take part in that exchange:
a barrier for the end would match a reduction of the others, which then returns numbers that nobody
sent. So words of the end travel on a duplicate of COMM_WORLD that nothing else uses.

Each rank that fails says why and waits a little for the others.

    All come         rank 0 prints each message once, and every rank ends with the same status.
    Some never come  they are in an exchange that will not end. The lowest rank that came prints
                     the messages it has heard of, and ends all ranks.

srun reports the status of the first rank that ends, or of one that it killed for that, so a job
script cannot rely on it. Where the same command must be run again, the status goes into a file that
the script has named, before anything ends.
"""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A rank that fails waits this long for the others to fail too, before it ends them.
PATIENCE_S = 3.0
HEAR_S = 0.5  # and then this long for the words of those that did
FORWARD_S = 0.5  # mpirun may lose what a rank wrote just before it ended all
SPIN_S = 2e-4  # a rank that waits longer leaves the core to others
MOST_MESSAGES = 4
BUG = 1  # exit status of an error that no user can mend: a traceback
STALLED = 86  # exit status: a rank was stuck; run the same command again
NOTE = "HPC_BNN_NOTE"  # names the file for the status of a command that must be run again
END = "HPC_BNN_END"  # names the file for the status of ranks that end together, in any way


@dataclass(frozen=True)
class Word:
    """What one rank says at its end.

    Attributes
    ----------
    head, text
        Of the message: "hpc-bnn train" and why.
    status
        Exit status for it.
    is_echo
        Another rank has failed, and says so itself.
    is_failure
        False where a rank leaves in good order.
    """

    head: str
    text: str
    status: int
    is_echo: bool = False
    is_failure: bool = True


def verdict(words: Mapping[int, Word], size: int) -> tuple[list[str], int]:
    """Return the messages to print, each once, and the exit status of the job.

    Parameters
    ----------
    words
        What ranks have said, by world rank.
    size
        Number of ranks. Where some are silent, or say different things, messages name their ranks.
    """
    causes = {rank: word for rank, word in words.items() if word.is_failure and not word.is_echo}
    causes = causes or {rank: word for rank, word in words.items() if word.is_failure}
    if not causes:
        return [], words[min(words)].status
    first: dict[str, int] = {}
    for rank in sorted(causes):
        first.setdefault(causes[rank].text, rank)
    named = len(first) > 1 or len(words) < size
    messages = [
        f"{causes[rank].head}: {f'rank {rank}: ' if named else ''}{text}"
        for text, rank in list(first.items())[:MOST_MESSAGES]
    ]
    if len(first) > MOST_MESSAGES:
        messages.append(f"and {len(first) - MOST_MESSAGES} more messages of other ranks")
    statuses = [causes[rank].status for rank in sorted(causes)]
    return messages, BUG if BUG in statuses else statuses[0]


class Control:
    """What the ranks say at their end.

    Parameters
    ----------
    mpi, comm
        The module ``mpi4py.MPI``, and a communicator over all ranks that nothing else uses.
    """

    def __init__(self, mpi: Any, comm: Any) -> None:
        self._mpi, self._comm = mpi, comm
        self._rank, self._size = comm.Get_rank(), comm.Get_size()
        self._sent: list[Any] = []

    def end(self, word: Word, *, within_s: float = PATIENCE_S) -> int:
        """Collective over the ranks that end: print each message once and return the status to end
        with; where some ranks never come, end all ranks instead.
        """
        words = self.meet(word, within_s=within_s)
        messages, status = verdict(words, self._size)
        speaks = min(words) == self._rank
        if speaks:
            _print(messages)
        if len(words) == self._size:
            # ``python -m mpi4py`` ends every rank as soon as one leaves with an error.
            completes(self._comm.Ibarrier(), within_s=PATIENCE_S)
            return status
        if not speaks:  # the lower rank ends all, unless it dies of something else before
            time.sleep(PATIENCE_S)
            _print(verdict({self._rank: word}, self._size)[0])
        self.abort(status)
        return status

    def meet(self, word: Word, *, within_s: float) -> dict[int, Word]:
        """Collective over the ranks that end: return what they say, by rank. All words where all
        ranks come in time; else, on the lowest of those that did, all that came.
        """
        if completes(self._comm.Ibarrier(), within_s=within_s):
            return dict(enumerate(self._comm.allgather(word)))
        return self._overhear(word)

    def abort(self, status: int) -> None:
        """End every rank at once; the job script learns the status, if of no earlier one."""
        leave_note(status, is_first=True)
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FORWARD_S)
        self._mpi.COMM_WORLD.Abort(status)

    def _overhear(self, word: Word) -> dict[int, Word]:
        """Return what those ranks say that came, as far as this one hears of it.

        Each tells ranks 0, 1, 2, 4, 8, ..., and those tell all: a few messages a rank, and the
        lowest of them that came hears of everyone.
        """
        hubs = [0] + [1 << k for k in range(self._size.bit_length()) if 1 << k < self._size]
        listeners = range(self._size) if self._rank in hubs else hubs
        self._sent += [
            self._comm.isend(word, dest=rank) for rank in listeners if rank != self._rank
        ]
        words, deadline = {self._rank: word}, time.monotonic() + HEAR_S
        while time.monotonic() < deadline:
            status = self._mpi.Status()
            message = self._comm.improbe(status=status)
            if message is None:
                time.sleep(SPIN_S)
            else:
                words[status.Get_source()] = message.recv()
        return words


def leave_note(
    status: int, environment: Mapping[str, str] = os.environ, *, is_first: bool = False
) -> None:
    """Write ``status`` into the file that the job script has named, if it has; ``is_first``: only
    where no rank has left one before.
    """
    name = environment.get(NOTE)
    if name:
        # Else the script sees the status of srun.
        with contextlib.suppress(OSError), Path(name).open("x" if is_first else "w") as file:
            file.write(f"{status}\n")


def settle(status: int, environment: Mapping[str, str] = os.environ) -> int:
    """Return the status for this process to end with, where all ranks end together with ``status``.

    A launcher takes every status but 0 for a rank that died: it would kill the others, which are
    just ending, and tell so in many lines. One that reads a file (``hpc-bnn run``) gets it there.
    """
    name = environment.get(END)
    if not name or status == 0:
        return status
    try:
        Path(name).write_text(f"{status}\n", encoding="utf-8")
    except OSError:
        return status
    return 0


def completes(request: Any, *, within_s: float) -> bool:
    """Wait for an exchange; False: not in time."""
    began = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - began
        if waited > within_s:
            return False
        if waited > SPIN_S:
            time.sleep(SPIN_S)
    return True


def _print(messages: list[str]) -> None:
    for message in messages:
        sys.stderr.write(f"{message.rstrip()}\n")
    sys.stderr.flush()
