"""One line of the table of ``doctor``."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and what to do where that is bad."""

    what: str
    value: str
    good: bool = True
    remedy: str = ""


def told(what: str, action: Callable[[], str], remedy: str) -> Finding:
    """Return what ``action`` finds; a failure is a bad finding."""
    try:
        return Finding(what, action())
    except (RuntimeError, ValueError, OSError, subprocess.TimeoutExpired) as error:
        return Finding(what, " ".join(str(error).split()), False, remedy)
