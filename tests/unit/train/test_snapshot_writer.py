"""Snapshots in the memory of a node: whole, private, bounded, and never in the way of a run."""

import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from thread_group import on_ranks

from hpc_bnn.group import Group
from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.checkpoint import Checkpoint, available, load
from hpc_bnn.train.run.newest import newest
from hpc_bnn.train.run.snapshot_writer import (
    SnapshotWriter,
    computed_steps,
    make_private,
    snapshot_folder,
)


def state(step: int, value: float = 0.0) -> Checkpoint:
    weights = {"mu": torch.full((3,), value), "count": torch.tensor(step)}
    moments = {"state": {0: {"exp_avg": torch.full((3,), value)}}, "param_groups": [{"lr": 0.1}]}
    return Checkpoint(step, {"epoch": 0}, weights, {}, moments, "seed: 1\n", {})


@pytest.fixture
def writer(tmp_path: Path) -> SnapshotWriter:
    made = SnapshotWriter(tmp_path / "memory" / "run")
    made.open()
    return made


def wait(writer: SnapshotWriter) -> None:
    assert writer._thread is not None
    writer._thread.join()


def test_the_newest_two_are_kept_and_are_checkpoints(
    writer: SnapshotWriter, tmp_path: Path
) -> None:
    for step in (1, 2, 3):
        writer.take(state(step, float(step)))
        wait(writer)
    folder = tmp_path / "memory" / "run"
    assert [path.name for path in available(folder)] == ["step-00000002.pt", "step-00000003.pt"]
    assert load(available(folder)[-1]).posterior["mu"].tolist() == [3.0] * 3
    assert (folder.parent.stat().st_mode & 0o777, writer.written) == (0o700, 3)
    writer.close(remove=True)
    assert not folder.parent.exists()


def test_the_state_of_the_moment_is_written(
    writer: SnapshotWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps go on while the file is written."""
    goes_on, save = threading.Event(), checkpoint.save

    def slow(*given: Any, **options: Any) -> Path:
        assert goes_on.wait(20)
        return save(*given, **options)

    monkeypatch.setattr(checkpoint, "save", slow)
    now = state(1, 1.0)
    writer.take(now)
    assert writer.is_busy
    now.posterior["mu"].fill_(2.0)
    now.optimizer["state"][0]["exp_avg"].fill_(2.0)
    goes_on.set()
    wait(writer)
    assert not writer.is_busy
    (path,) = available(tmp_path / "memory" / "run")
    found = load(path)
    assert found.posterior["mu"].tolist() == [1.0] * 3
    assert found.optimizer["state"][0]["exp_avg"].tolist() == [1.0] * 3


def test_the_copy_uses_its_memory_again(writer: SnapshotWriter) -> None:
    writer.take(state(1))
    wait(writer)
    places = [tensor.data_ptr() for tensor in writer._host]
    writer.take(state(2))
    wait(writer)
    assert [tensor.data_ptr() for tensor in writer._host] == places


def test_a_full_memory_ends_the_snapshots_not_the_run(
    writer: SnapshotWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*given: Any, **options: Any) -> Path:
        raise checkpoint.CheckpointError("memory is full")

    monkeypatch.setattr(checkpoint, "save", full)
    with caplog.at_level(logging.WARNING, logger="hpc_bnn"):
        for step in (1, 2):
            writer.take(state(step))
            wait(writer)
    assert caplog.messages == [
        "no snapshots on this node from here on, but checkpoints: memory is full"
    ]


def test_a_folder_that_others_can_enter_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "memory").mkdir(mode=0o755)
    with pytest.raises(OSError, match="expected a folder of this user with mode 0700"):
        make_private(tmp_path / "memory")
    (tmp_path / "link").symlink_to(tmp_path / "memory")
    with pytest.raises(OSError, match="expected a folder of this user with mode 0700"):
        make_private(tmp_path / "link")
    writer = SnapshotWriter(tmp_path / "memory" / "run")
    writer.open()
    writer.count(3)
    writer.take(state(1))
    assert "no snapshots on this node" in caplog.text
    assert not (tmp_path / "memory" / "run").exists()


def test_the_number_of_computed_steps_outlives_a_killed_process(tmp_path: Path) -> None:
    folder = tmp_path / "memory" / "run"
    assert computed_steps(folder) == 0
    child = os.fork()
    if child == 0:
        writer = SnapshotWriter(folder)
        writer.open()
        writer.count(41)
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert computed_steps(folder) == 41
    (folder / "steps").write_bytes(b"x")
    assert computed_steps(folder) == 0


def test_the_folder_is_that_of_user_and_job() -> None:
    assert snapshot_folder("/scratch/x", {}) == Path("/scratch/x")
    job = {"USER": "ann", "SLURM_JOB_ID": "7"}
    assert snapshot_folder("", job) == Path("/dev/shm/hpc_bnn-ann-7")
    assert snapshot_folder("", {"USER": "ann"}) == Path("/dev/shm/hpc_bnn-ann")


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_newest_whole_state_of_all_ranks(
    ranks: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last rank has the newest file, which is cut; the one before is on all but rank 0."""
    for rank in range(ranks):
        for step in (4, 5) if rank else (3, 4):
            checkpoint.save(tmp_path / str(rank), state(step, rank), keep=3)
    last = available(tmp_path / str(ranks - 1))[-1].with_name("step-00000009.pt")
    last.write_bytes(available(tmp_path / "0")[0].read_bytes()[:-50])

    def found(all_ranks: Group) -> tuple[int, int | None]:
        owner, here = newest(all_ranks, available(tmp_path / str(all_ranks.rank)))
        return owner, None if here is None else here[1].step

    with caplog.at_level(logging.WARNING, logger="hpc_bnn"):
        outcome = on_ranks(ranks, found)
    owner, step = (0, 4) if ranks == 1 else (1, 5)
    assert outcome == [(owner, step if rank == owner else None) for rank in range(ranks)]
    assert len(caplog.messages) == 1
    assert "step-00000009.pt: damaged or truncated" in caplog.messages[0]


def test_no_state_at_all() -> None:
    assert on_ranks(3, lambda ranks: newest(ranks, [])) == [(-1, None)] * 3
