"""A stop that was asked for is obeyed before anything else that is due, in whatever a run is."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
from launch import Job, run

from hpc_bnn.train.run.checkpoint import available

FAILING = Path(__file__).with_name("failing_rank.py")


@pytest.mark.parametrize("reads", ["0,1", "1"], ids=["all ranks", "one rank, the other waits"])
@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTERM"])
def test_while_data_are_read(config: Path, tmp_path: Path, reads: str, name: str) -> None:
    """Nothing is to be saved yet: the ranks end at once, and the same command goes on."""
    words = ("train", config, "--run", tmp_path / "run")
    job = Job(FAILING, "reads", reads, *words, ranks=2, cwd=tmp_path)
    ranks = job.ranks()
    out = job.process.stdout
    assert out is not None and out.readline() == "reading\n"
    for pid in ranks.values():
        os.kill(pid, signal.Signals[name])
    ended = job.wait(40)
    assert ended.status == 85, ended.text
    said = rf"hpc-bnn train: (rank 1: )?signal {name}: ended before the first step of this start"
    assert len(re.findall(said, ended.err)) == 1, ended.text
    assert "Traceback" not in ended.err, ended.text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_twice_with_a_validation_due(config: Path, tmp_path: Path) -> None:
    """Of the four steps there is a checkpoint, and no validation; one line said what it waits for.

    USR1, as Slurm sends it to ranks, would end a process that does not listen.
    """
    run_folder = tmp_path / "run"
    words = ("train", config, "train.validate_every=4", "--run", run_folder)
    ended = run(FAILING, "asked", "0", *words, ranks=2, cwd=tmp_path)
    assert ended.status == 85, ended.text
    assert "signal SIGUSR1: stopped after step 4 of 20, with a checkpoint" in ended.err
    assert ended.err.count("signal SIGUSR1: a checkpoint is written after this step") == 1
    assert "it goes on from step 0" in ended.err
    assert [path.name for path in available(run_folder / "checkpoints")] == ["step-00000004.pt"]
    rows = (run_folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert ["loss" in json.loads(row) for row in rows] == [True] * 4
