"""Jobs that are killed at a chosen moment, and what they leave."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_at(work: Callable[[], object], number: int) -> bool:
    """Run in a process of its own, killed at its call number ``number`` that changes the disk;
    tell whether it got that far.
    """
    child = os.fork()
    if child:
        state = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(state) or os.WEXITSTATUS(state) == 0
        return os.WIFSIGNALED(state)
    left = number

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return counted

    try:
        for name in ("pwrite", "fsync"):
            setattr(os, name, counting(getattr(os, name)))
        for name in ("replace", "unlink", "mkdir"):
            setattr(Path, name, counting(getattr(Path, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)
