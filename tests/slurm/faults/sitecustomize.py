"""Faults on demand: a signal makes the main thread of a rank fail in the step it is in.

Python imports this at its start where the folder is on PYTHONPATH; only tests put it there.
"""

import signal
import time
from types import FrameType

RAISE = signal.SIGRTMIN
SLEEP = signal.SIGRTMIN + 1


class Fault(Exception):
    """No error that the program or Horovod knows."""


def _raise(number: int, frame: FrameType | None) -> None:
    raise Fault("this rank lost its memory")


def _sleep(number: int, frame: FrameType | None) -> None:
    time.sleep(3600)


signal.signal(RAISE, _raise)
signal.signal(SLEEP, _sleep)
