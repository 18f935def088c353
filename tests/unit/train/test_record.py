"""The rows of a run: who may begin them."""

from pathlib import Path

import pytest
import torch
from test_folder import settings

from hpc_bnn.lock import LockError, release
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.record import Record

WORLD = World(Grid(1, 1, 0), torch.device("cpu"))


def test_a_process_that_wakes_late_leaves_the_rows_of_its_successor(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lock = folder.claim(settings(), resume=False)
    folder.lock.write_text("another job\n", encoding="utf-8")
    folder.metrics.write_text('{"step": 0, "loss": 1.0}\n', encoding="utf-8")
    with pytest.raises(LockError, match="another job has taken this run folder over"):
        Record(WORLD, folder).open(0)
    assert folder.metrics.read_text(encoding="utf-8") == '{"step": 0, "loss": 1.0}\n'
    release(lock)


def test_a_folder_that_was_deleted_is_not_made_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    lock = folder.claim(settings(), resume=False)
    folder.path.rename(tmp_path / "moved")
    with pytest.raises(LockError, match="the lock of this run is gone"):
        Record(WORLD, folder).open(0)
    assert not folder.path.exists()
    release(lock)
