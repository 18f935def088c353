"""What ends a command early: Ctrl-C, ``kill``, and the launcher that was asked to end its ranks.

Each becomes one exception in the main thread, once: a second Ctrl-C ends the process at once, and
other signals are ignored while it ends. ``train`` and ``forecast`` listen by themselves while they
make steps (``hpc_bnn.train.run.stop``).
"""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from hpc_bnn.parallel.control import END, leave_note
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.stop import REQUEUE, SIGNAL, Unfinished

INTERRUPTED = 128 + signal.SIGINT


class Asked(KeyboardInterrupt):
    """A signal asked the command to end; ``status`` is what to end with."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def listening(
    environment: Mapping[str, str] = os.environ, *, makes_steps: bool = False
) -> Iterator[None]:
    """Raise ``Asked`` in the main thread where a signal asks the command to end.

    USR2 counts as an interrupt where ``hpc-bnn run`` has started this rank: mpirun and srun pass
    that one on. Job scripts let ranks ignore it until a training listens. Where USR1 and USR2, as
    of ``sbatch --signal``, would end the process without a word, they count, too.

    makes_steps: the command listens to these two itself, while it makes steps.
    """
    is_started = bool(environment.get(END))
    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR2] if is_started else [])]
    for number in () if makes_steps else (signal.SIGUSR1, signal.SIGUSR2):
        if number not in numbers and signal.getsignal(number) is signal.SIG_DFL:
            numbers.append(number)

    def ask(number: int, frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_DFL if other == signal.SIGINT else signal.SIG_IGN)
        raise Asked(signal.SIGINT if is_started and number == signal.SIGUSR2 else number)

    before = {}
    for number in numbers if threading.current_thread() is threading.main_thread() else ():
        handler = signal.getsignal(number)
        # A shell that starts a command in the background lets it ignore Ctrl-C.
        if handler is not signal.SIG_IGN or number == signal.SIGUSR2:
            before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is ask:  # else something else has to stay as it is now
                signal.signal(number, handler)


def end_at_once() -> None:
    """Let the next Ctrl-C end this process at once, without a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def leaving(world: World) -> Iterator[None]:
    """Let work that ends early, to be gone on with, end all ranks in good order."""
    try:
        yield
    except Unfinished:
        # From here on nothing may end a rank before all do: whoever asked may ask again.
        for number in (SIGNAL, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        end_at_once()
        if world.is_first:
            leave_note(REQUEUE)
        world.stop()  # the engine ends before MPI does
        raise
