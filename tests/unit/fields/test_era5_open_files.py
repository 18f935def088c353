"""Open files fit the limit of the process, or the message names it."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from era5_files import HOUR, START, hours, write_legacy, write_new

from hpc_bnn.fields import handles
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.handles import MOST_OPEN, ROOM, most_open
from hpc_bnn.fields.reader import Reader

COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many files, one step each, in both formats."""
    folder = tmp_path_factory.mktemp("many")
    for at in range(COUNT):
        write = write_legacy if at % 2 else write_new
        write(folder / f"{at:03}.nc", hours(1, start=START + at * 24 * HOUR))
    return folder


def in_child(action: Callable[[], None]) -> int:
    """Run an action in a process of its own, whose limits it may change; return its status."""
    child = os.fork()
    if child == 0:
        status = 9
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read_everything(folder: Path) -> None:
    made = catalogue(folder)
    reader, out = Reader(made), np.empty(made.shape, np.float32)
    for _ in range(2):
        for at in range(len(made.times)):
            reader.read(at, out)


@pytest.mark.parametrize("spare", [8, 2, 0])
def test_more_files_than_may_be_open(folder: Path, spare: int) -> None:
    def action() -> None:
        limit = len(list(Path("/dev/fd").iterdir())) + ROOM + spare
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        read_everything(folder)
        assert len(list(Path("/dev/fd").iterdir())) < limit - ROOM // 2

    assert in_child(action) == 0


def test_the_soft_limit_is_raised(folder: Path) -> None:
    def action() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        assert most_open(0) == MOST_OPEN
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 2 * MOST_OPEN

    assert in_child(action) == 0


@pytest.mark.parametrize("at", [0, 1])
def test_where_nothing_may_be_opened_the_message_names_the_limit(folder: Path, at: int) -> None:
    def action() -> None:
        made = catalogue(folder / f"{at:03}.nc")
        reader, out = Reader(made), np.empty(made.shape, np.float32)
        limit = os.dup(0)  # the lowest number that is free
        os.close(limit)
        most, handles.most_open = handles.most_open, lambda held: MOST_OPEN
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        with pytest.raises(OSError, match=rf"may have {limit} files open \(ulimit -n; at most"):
            reader.read(0, out)
        handles.most_open = most

    assert in_child(action) == 0
