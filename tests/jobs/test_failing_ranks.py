"""A rank that fails ends the job: every rank, soon, and with a message that says why."""

import re
from pathlib import Path

import pytest
from launch import run
from tiny_job import Train

from hpc_bnn.train.checkpoint import available, load

SCRIPT = Path(__file__).with_name("user_script.py")
SOON_S = 60.0  # starting takes a few seconds, on a busy machine more


@pytest.mark.parametrize("aborts", [True, False], ids=["python -m mpi4py", "plain python"])
def test_a_rank_that_raises(tmp_path: Path, aborts: bool) -> None:
    """The loss is joint: rank 0 waits in an exchange of the forward pass."""
    ended = run(SCRIPT, "raise", "crps", ranks=2, cwd=tmp_path, aborts=aborts)
    assert ended.status != 0
    assert ended.seconds < SOON_S
    assert "ValueError: rank 1 lost its data" in ended.err, ended.text
    assert ended.err.count("Traceback") == 1, ended.text
    assert "step 2 loss" in ended.out
    assert "step 3 loss" not in ended.out


def test_a_rank_that_leaves(tmp_path: Path) -> None:
    ended = run(SCRIPT, "exit", "crps", ranks=2, cwd=tmp_path)
    assert ended.status != 0
    assert ended.seconds < SOON_S
    assert "step 3 loss" not in ended.out


@pytest.mark.parametrize("loss", ["gaussian_nll", "crps"])
def test_a_rank_that_never_comes(tmp_path: Path, loss: str) -> None:
    """After 5 s; before, Horovod names its gradients and rank."""
    ended = run(SCRIPT, "sleep", loss, "5", ranks=2, cwd=tmp_path)
    assert ended.status == 86
    assert ended.seconds < SOON_S
    where = "crps.members" if loss == "crps" else "loss"
    said = (
        rf"rank 0 of 2 has waited 5 s in {where}: rank 1 \(.+\) has not come there, and not moved"
    )
    assert len(re.findall(said, ended.err)) == 1, ended.text
    if loss != "crps":
        assert "Missing ranks:\n1: [" in ended.err, ended.text
        assert "module.layers.0.weight" in ended.err, ended.text


def test_a_rank_that_is_stopped_in_a_reduction(tmp_path: Path) -> None:
    """Horovod's own limit does not work then: its threads wait for those of the stopped rank. Of
    three that wait, one says which.
    """
    ended = run(SCRIPT, "stop", "gaussian_nll", "5", ranks=4, cwd=tmp_path)
    assert ended.status == 86
    assert ended.seconds < SOON_S
    said = (
        r"rank \d of 4 has waited 5 s in .*: rank 1 \(.+\) does not answer: it is stopped, or the"
    )
    assert len(re.findall(said, ended.err)) == ended.err.count("has waited") == 1, ended.text


def test_a_loss_that_is_not_finite(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = train(folder, "train.lr=1e30", "train.checkpoint_every=1", ranks=2)
    assert ended.status == 2, ended.text
    assert ended.err.count("hpc-bnn train: step 1: loss = ") == 1, ended.text
    assert "Traceback" not in ended.err, ended.text
    assert not (folder / "summary.json").exists()
    good = [load(path) for path in available(folder / "checkpoints")]
    assert [checkpoint.step for checkpoint in good] == [1]
    tensors = good[0].posterior.values()
    assert all(tensor.isfinite().all() for tensor in tensors)
