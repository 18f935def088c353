"""Jobs that are killed at a chosen moment, and what they leave."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


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


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a file system of ``size``, where this user may; give what makes it larger."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")

    def enlarge(size: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)

    try:
        yield enlarge
    finally:
        subprocess.run(["umount", str(folder)], check=True)
