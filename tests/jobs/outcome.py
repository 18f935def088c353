"""What a run leaves in its folder, compared with another; and the end of one that loses a rank."""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from launch import Job, is_running

ENDS_WITHIN_S = 20.0  # after a kill; about one second on a machine that is not busy


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    summary: dict[str, Any]
    losses: dict[int, float]


def read(folder: Path) -> Run:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    assert len(losses) == sum("loss" in row for row in rows), "a step is recorded twice"
    return Run(json.loads((folder / "summary.json").read_text()), losses)


def assert_same(got: Run, expected: Run, tolerance: float) -> None:
    assert got.losses.keys() == expected.losses.keys()
    assert got.losses == pytest.approx(expected.losses, rel=tolerance)
    for key, value in expected.summary["parameter_checksum"].items():
        # The sum of many parameters of both signs cancels, so its scale is that of the squares.
        scale = expected.summary["parameter_checksum"]["sum_of_squares"]
        assert got.summary["parameter_checksum"][key] == pytest.approx(value, abs=tolerance * scale)
    for key in ("rmse", "crps"):
        score = expected.summary["validation"][key]
        assert got.summary["validation"][key] == pytest.approx(score, rel=10 * tolerance)


def killed_behind(job: Job, folder: Path, *, step: int) -> tuple[float, int]:
    """Kill one rank of a job as soon as it has written the checkpoint of ``step``; return how long
    it took until all ranks had ended, and which rank it was.
    """
    processes = job.ranks()
    first = folder / "checkpoints" / f"step-{step:08d}.pt"
    while not first.exists():
        assert processes.keys() == job.ranks().keys()
        time.sleep(0.005)
    victim = max(processes)
    os.kill(processes[victim], signal.SIGKILL)
    killed = time.monotonic()
    ended = job.wait()
    while any(map(is_running, processes.values())) and time.monotonic() < killed + ENDS_WITHIN_S:
        time.sleep(0.01)
    seconds = time.monotonic() - killed
    assert ended.status != 0, ended.text
    assert seconds < ENDS_WITHIN_S
    assert f"rank {victim}" in ended.err, ended.text
    assert "signal 9" in ended.err or "Killed" in ended.err, ended.text
    assert not (folder / "summary.json").exists(), "the run was over before the kill"
    return seconds, victim
