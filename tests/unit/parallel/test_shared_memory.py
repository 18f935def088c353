"""Room for shared memory is seen before it is used: no process ends by a page without room."""

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from hpc_bnn.parallel.shared_memory import FOLDER_VARIABLE, OwnMemory, claim, free_bytes


def linux_at_least(major: int, minor: int) -> bool:
    return tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (major, minor)


def test_free_bytes_are_those_of_the_folder_that_mpi_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    room = os.statvfs(tmp_path)
    assert free_bytes() == pytest.approx(room.f_bavail * room.f_frsize, rel=0.1)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "missing"))
    assert free_bytes() == 0


def test_claim_keeps_what_is_there() -> None:
    memory = OwnMemory(3 * mmap.PAGESIZE + 5)
    memory.array[:] = 7
    claim(memory.array[100:-100])
    assert np.all(memory.array == 7)


@pytest.mark.skipif(not linux_at_least(5, 14), reason="older kernels do not report it")
def test_claim_refuses_pages_that_cannot_exist(tmp_path: Path) -> None:
    """Pages behind the end of a file: touching one ends the process with SIGBUS, as where the file
    system of shared memory is full.
    """
    with (tmp_path / "short").open("w+b") as file:
        file.truncate(4 * mmap.PAGESIZE)
        mapped = mmap.mmap(file.fileno(), 4 * mmap.PAGESIZE)
        claim(np.frombuffer(mapped, np.uint8))
        file.truncate(mmap.PAGESIZE)
        with pytest.raises(MemoryError, match=f"no room for {4 * mmap.PAGESIZE} bytes"):
            claim(np.frombuffer(mapped, np.uint8))
