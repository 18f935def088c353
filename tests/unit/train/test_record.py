"""The rows of a run: who may begin them."""

import json
from pathlib import Path

import pytest
import torch
from test_folder import settings

from hpc_bnn.lock import LockError, release
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.record import Record
from hpc_bnn.train.step.phases import PHASES
from hpc_bnn.train.step.step_report import Report

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


@pytest.mark.parametrize(("device", "lag"), [("cpu", 0), ("cuda", 1)])
def test_nothing_waits_for_the_times_of_a_step_on_a_gpu(
    tmp_path: Path, device: str, lag: int
) -> None:
    """Its row comes with the next one, and before a validation, a checkpoint and the end."""
    folder, asked = RunFolder(tmp_path), list[int]()
    record = Record(World(Grid(1, 1, 0), torch.device(device)), folder)
    record.open(0)

    def note(step: int) -> None:
        def times() -> dict[str, float]:
            asked.append(step)
            return dict.fromkeys(PHASES, 0.5)

        report = Report(step, 1.0 + step, 0.0, 0.0, 0.0, times)
        record.step(report, epoch=0.0, lr=0.1, rollout=None, data_wait_s=0.25)

    def rows() -> list[object]:
        lines = folder.metrics.read_text(encoding="utf-8").splitlines()
        return [row.get("loss", "other") for row in map(json.loads, lines)]

    note(0)
    assert len(asked) == 1 - lag
    note(1)
    assert rows() == [1.0, 2.0][: 2 - lag]
    record.write({"step": 1, "validation_crps": 0.5})
    note(2)
    assert rows() == [1.0, 2.0, "other", 3.0][: 4 - lag]
    record.flush()
    note(3)
    record.close()
    assert rows() == [1.0, 2.0, "other", 3.0, 4.0]
    assert asked == [0, 1, 2, 3]  # once each
    assert (record.loss, record.durations.count) == (4.0, 2)
    assert record.durations.sum(*PHASES, "data") == 2 * (0.5 * len(PHASES) + 0.25)


def test_a_device_that_failed_tells_no_times(tmp_path: Path) -> None:
    record = Record(World(Grid(1, 1, 0), torch.device("cuda")), RunFolder(tmp_path))
    record.open(0)

    def times() -> dict[str, float]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    report = Report(0, 1.0, 0.0, 0.0, 0.0, times)
    record.step(report, epoch=0.0, lr=0.1, rollout=None, data_wait_s=0.0)
    record.close()
