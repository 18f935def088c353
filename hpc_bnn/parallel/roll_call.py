"""Finds out which rank is stuck, where the others wait for it.

A rank that has waited too long asks the first rank to lead a roll call, and if that does not, the
next one, and so on to itself. The leader asks all ranks how many exchanges they have come to: all
ranks come to the same ones. Who does not answer is stopped, or its node hangs; who answers, from
the thread of its watchdog, with the smallest number is the one that the others wait for. So one
rank speaks, once. A rank that need not wait any more takes its question back: one that was only
slow has come, and nobody speaks.

Messages are small, on a communicator of their own, and there are none before a rank has waited too
long. Everything is done by the thread of the watchdog and nothing blocks.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ASK, QUERY, STATE, WITHDRAW = 1, 2, 3, 4  # tags
TEXT_BYTES = 200
SETTLE_S = 1.0  # before the query: others may be about to come, or to give up too
ANSWER_S = 5.0  # a thread answers five times a second, unless its process is stopped
PATIENCE_S = 20.0  # with a leader that has begun
MOST_NAMED = 8


class State(NamedTuple):
    """Where a rank is: how many exchanges it has come to, and for how many seconds it has been in
    the last of them, or has been out of it.
    """

    exchanges: int
    seconds: float


class RollCall:
    """One rank's part in finding a rank that is stuck.

    Parameters
    ----------
    mpi, comm
        The module ``mpi4py.MPI`` and a communicator of all ranks that nothing else uses.
    hosts
        Host of each rank.
    state
        Called for the state of this rank.
    speak
        Called once, on the rank that leads, with the finding.
    """

    def __init__(
        self,
        mpi: Any,
        comm: Any,
        hosts: list[str],
        *,
        state: Callable[[], State],
        speak: Callable[[str], None],
    ) -> None:
        self._mpi, self._comm, self._hosts = mpi, comm, hosts
        self._state, self._speak = state, speak
        self._rank, self._size = comm.Get_rank(), comm.Get_size()
        self._sent: list[Any] = []  # requests and what they send, until the end
        self._complaint, self._asked_in = "", State(0, 0.0)  # of this rank, and where it asked
        self._candidate = -1  # whom this rank has asked to lead
        self._again_at = 0.0
        self._complaints: dict[int, str] = {}  # for which this rank leads, by rank
        self._leads_since: float | None = None
        self._queried_at: float | None = None
        self._states: dict[int, State] = {}
        self._has_spoken = False

    def ask(self, name: str, waited_s: float) -> None:
        """Ask for a roll call, because this rank has waited too long."""
        self._complaint = f"rank {self._rank} of {self._size} has waited {waited_s:.0f} s in {name}"
        self._candidate, self._again_at, self._asked_in = -1, 0.0, self._state()
        self._ask_next(time.monotonic())

    def turn(self) -> None:
        """Answer what has come, and take the next step; call it often."""
        now = time.monotonic()
        if self._candidate >= 0 and self._waits_no_more():
            self._withdraw()
        for source, _ in self._received(QUERY, 1, np.float64):
            self._again_at = now + PATIENCE_S
            self._send(np.array(self._state(), np.float64), source, STATE)
        for source, content in self._received(ASK, TEXT_BYTES, np.uint8):
            self._lead(source, content.tobytes().rstrip(b"\0").decode(), now)
        for source, _ in self._received(WITHDRAW, 1, np.float64):
            self._drop(source)
        for source, content in self._received(STATE, 2, np.float64):
            self._states[source] = State(int(content[0]), float(content[1]))
        if self._leads_since is not None:
            self._go_on_leading(now, now - self._leads_since)
        elif self._candidate >= 0 and now > self._again_at:
            self._ask_next(now)

    def _ask_next(self, now: float) -> None:
        self._candidate += 1
        if self._candidate >= self._rank:
            self._lead(self._rank, self._complaint, now)
            return
        text = self._complaint.encode()[:TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        self._send(np.frombuffer(text, np.uint8).copy(), self._candidate, ASK)
        self._again_at = now + ANSWER_S + SETTLE_S

    def _waits_no_more(self) -> bool:
        exchanges, seconds = self._state()  # the seconds grow while it waits
        return exchanges != self._asked_in.exchanges or seconds < self._asked_in.seconds

    def _withdraw(self) -> None:
        for rank in range(min(self._candidate + 1, self._rank)):
            self._send(np.zeros(1), rank, WITHDRAW)
        self._candidate = -1
        self._drop(self._rank)

    def _lead(self, complainer: int, complaint: str, now: float) -> None:
        self._complaints[complainer] = complaint
        self._leads_since = self._leads_since or now

    def _drop(self, complainer: int) -> None:
        self._complaints.pop(complainer, None)
        if not self._complaints:
            self._leads_since = self._queried_at = None
            self._states.clear()

    def _go_on_leading(self, now: float, led_s: float) -> None:
        if self._queried_at is None:
            if led_s > SETTLE_S:
                self._queried_at = now
                for rank in range(self._size):
                    if rank != self._rank:
                        self._send(np.zeros(1), rank, QUERY)
            return
        everyone = len(self._states) == self._size - 1
        if not self._has_spoken and (everyone or now - self._queried_at > ANSWER_S):
            self._has_spoken = True
            self._states[self._rank] = self._state()
            first = min(self._complaints)  # of the ranks that wait, whoever asked before
            self._speak(f"{self._complaints[first]}: {self._findings()}")

    def _findings(self) -> str:
        silent = [rank for rank in range(self._size) if rank not in self._states]
        if silent:
            verb = "does not answer: it is" if len(silent) == 1 else "do not answer: they are"
            return f"{self._named(silent)} {verb} stopped, or the node hangs"
        counts = [state.exchanges for _, state in sorted(self._states.items())]
        if min(counts) == max(counts):
            return "all ranks have come there, and answer: the network between them hangs"
        behind = [rank for rank, count in enumerate(counts) if count == min(counts)]
        seconds = max(self._states[rank].seconds for rank in behind)
        verb = "has" if len(behind) == 1 else "have"
        return f"{self._named(behind)} {verb} not come there, and not moved for {seconds:.0f} s"

    def _named(self, ranks: list[int]) -> str:
        named = ", ".join(f"{rank} ({self._hosts[rank]})" for rank in ranks[:MOST_NAMED])
        more = f" and {len(ranks) - MOST_NAMED} more" if len(ranks) > MOST_NAMED else ""
        return f"{'rank' if len(ranks) == 1 else 'ranks'} {named}{more}"

    def _send(self, content: Any, to: int, tag: int) -> None:
        self._sent.append((self._comm.Isend(content, to, tag), content))

    def _received(self, tag: int, size: int, dtype: Any) -> list[tuple[int, Any]]:
        """Return source and content of every message of a kind that has come."""
        messages, status = [], self._mpi.Status()
        while self._comm.Iprobe(self._mpi.ANY_SOURCE, tag, status):
            content = np.empty(size, dtype)
            self._comm.Recv(content, status.Get_source(), tag)
            messages.append((status.Get_source(), content))
        return messages
