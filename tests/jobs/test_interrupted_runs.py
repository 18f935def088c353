"""Runs that do not come to their end by themselves: killed, interrupted, stuck."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from launch import run
from tiny_job import Train

from hpc_bnn.train.run.checkpoint import available, digest, load

FAILING = Path(__file__).with_name("failing_rank.py")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lost_steps_of_a_killed_run(train: Train, config: Path, tmp_path: Path) -> None:
    """45 steps were made: exactly those after the checkpoint are lost."""
    folder, options = tmp_path / "run", ("train.checkpoint_every=20", "train.steps=50")
    words = ("train", config, *options, "--run", folder)
    killed = run(FAILING, "killed", "0", *words, ranks=0, cwd=tmp_path)
    assert killed.status == -signal.SIGKILL, killed.text
    assert train(folder, *options, "--resume", ranks=0).status == 0
    (restart,) = rows(folder / "restarts.jsonl")
    assert (restart["step"], restart["lost_steps"]) == (40, 5)
    assert [row["step"] for row in rows(folder / "metrics.jsonl") if "loss" in row] == [*range(50)]
    assert json.loads((folder / "summary.json").read_text())["lost_steps"] == 5


def test_a_killed_run_goes_on_from_its_snapshot(train: Train, config: Path, tmp_path: Path) -> None:
    """Without a job script: what lies in the memory of this node is found by the same command."""
    folder, memory = tmp_path / "run", tmp_path / "memory"
    options = ("train.snapshot_every=1", f"train.snapshot_dir={memory}", "train.steps=50")
    words = ("train", config, *options, "--run", folder)
    killed = run(FAILING, "killed", "0", *words, ranks=0, cwd=tmp_path)
    assert killed.status == -signal.SIGKILL, killed.text
    ended = train(folder, *options, "--resume", ranks=0)
    assert ended.status == 0
    assert f"resumed from {memory}" in ended.err
    (restart,) = rows(folder / "restarts.jsonl")
    # The kill came before the snapshot of step 45; a writer that was behind left some out.
    assert 40 <= restart["step"] <= 44
    assert restart["lost_steps"] == 45 - restart["step"]
    assert not memory.exists(), "a run that is over leaves nothing in memory"


def test_killed_chains_go_on_to_the_same_states(train: Train, config: Path, tmp_path: Path) -> None:
    """Momenta, rates and snapshots as well; 45 steps were made, 20 and 40 have a checkpoint."""
    options = (
        "posterior.name=sghmc",
        "posterior.burn_in=10",
        "posterior.collect_every=5",
        "posterior.snapshots=6",
        "posterior.preconditioning=true",
        "train.schedule=constant",
        "train.checkpoint_every=20",
        "train.steps=50",
    )
    folder, whole = tmp_path / "run", tmp_path / "whole"
    assert train(whole, *options, ranks=0).status == 0
    words = ("train", config, *options, "--run", folder)
    killed = run(FAILING, "killed", "0", *words, ranks=0, cwd=tmp_path)
    assert killed.status == -signal.SIGKILL, killed.text
    assert train(folder, *options, "--resume", ranks=0).status == 0
    found, expected = (load(each / "checkpoints" / "step-00000050.pt") for each in (folder, whole))
    for part in ("posterior", "optimizer"):
        assert digest(getattr(found, part)) == digest(getattr(expected, part))
    assert found.posterior["snapshots.offered"].item() == 8
    told = [
        json.loads((each / "summary.json").read_text())["diagnostics"] for each in (folder, whole)
    ]
    assert told[0] == told[1]
    assert told[0]["snapshots"] == 4


def test_a_rank_that_reads_slowly_and_is_stuck_later(config: Path, tmp_path: Path) -> None:
    """The limit of 3 s is none for the first batch, which takes 6 s; then it is."""
    folder = tmp_path / "run"
    words = ("train", config, "train.stall_timeout=3", "--run", folder)
    ended = run(FAILING, "stuck", "1", *words, ranks=2, cwd=tmp_path)
    assert ended.status == 86, ended.text
    assert [row["step"] for row in rows(folder / "metrics.jsonl")] == [0, 1, 2], ended.text
    said = (
        r"rank 0 of 2 has waited \d+ s in .*: rank 1 \(.+\) has not come there, and not moved for"
    )
    assert len(re.findall(said, ended.err)) == 1, ended.text
    assert ended.err.count("has waited") == 1, ended.text
    assert "Traceback" not in ended.err, ended.text


def test_a_signal_in_the_midst_of_a_validation(config: Path, tmp_path: Path) -> None:
    """Of 15 s: it is broken off, and the run ends in good order."""
    folder = tmp_path / "run"
    words = ("train", config, "train.steps=1", "data.length=1800", "--run", folder)
    with subprocess.Popen(
        [sys.executable, FAILING, "slow", "0", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "validating\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 85, err
    assert out.count("validating") <= 1
    assert err.count("hpc-bnn train: ") == 1
    assert "hpc-bnn train: signal SIGTERM: stopped after step 1 of 1, with a checkpoint" in err
    assert "Traceback" not in err
    assert [path.name for path in available(folder / "checkpoints")] == ["step-00000001.pt"]
    assert ["loss" in row for row in rows(folder / "metrics.jsonl")] == [True]
    assert not (folder / "summary.json").exists()
