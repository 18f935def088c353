"""A rank that fails ends the job: every rank, soon, and with a message that says why."""

import json
import re
from pathlib import Path

import pytest
from launch import Ended, run, run_commands

SCRIPT = Path(__file__).with_name("user_script.py")
FAILING = Path(__file__).with_name("failing_rank.py")
SOON_S = 60.0  # starting takes a few seconds, on a busy machine more


@pytest.mark.parametrize("engine", ["horovod", "torch"])
@pytest.mark.parametrize("aborts", [True, False], ids=["python -m mpi4py", "plain python"])
def test_a_rank_that_raises(tmp_path: Path, aborts: bool, engine: str) -> None:
    """The loss is joint: rank 0 waits in an exchange of the forward pass."""
    ended = run(SCRIPT, "raise", "crps", "0", engine, ranks=2, cwd=tmp_path, aborts=aborts)
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
    where = "crps.members" if loss == "crps" else "batch sizes and gradients"
    said = (
        rf"rank 0 of 2 has waited 5 s in {where}: rank 1 \(.+\) has not come there, and not moved"
    )
    assert len(re.findall(said, ended.err)) == 1, ended.text
    if loss != "crps":
        assert "Missing ranks:\n1: [" in ended.err, ended.text
        assert "module.layers.0.weight" in ended.err, ended.text


@pytest.mark.parametrize("engine", ["horovod", "torch"])
def test_a_rank_that_is_stopped_in_a_reduction(tmp_path: Path, engine: str) -> None:
    """An engine's own limit does not work then: Horovod's threads wait for those of the stopped
    rank, and gloo's block in C++. Of three that wait, one says which.
    """
    ended = run(SCRIPT, "stop", "gaussian_nll", "5", engine, ranks=4, cwd=tmp_path)
    assert ended.status == 86
    assert ended.seconds < SOON_S
    said = (
        r"rank \d of 4 has waited 5 s in .*: rank 1 \(.+\) does not answer: it is stopped, or the"
    )
    assert len(re.findall(said, ended.err)) == ended.err.count("has waited") == 1, ended.text


def end(config: Path, folder: Path, fault: str, at: str, *overrides: str, ranks: int = 2) -> Ended:
    """Train on ranks of which those in ``at`` meet a fault; what holds for every such job."""
    words = ("train", config, "--run", folder, f"grid.sample_ranks={ranks}", *overrides)
    ended = run(FAILING, fault, at, *words, ranks=ranks, cwd=folder.parent)
    assert ended.seconds < SOON_S, ended.text
    assert "MPI_ERR" not in ended.err, ended.text
    return ended


def messages(ended: Ended) -> list[str]:
    """Return what the command line says when it ends, without what launchers say."""
    return [line for line in ended.err.splitlines() if line.startswith("hpc-bnn ")]


AGREED = {
    "gpu": ("1", "train.device=cuda", "CUDA error: uncorrectable ECC error encountered"),
    "driver": ("1", "train.device=auto", "CUDA driver initialization failed"),
    "horovod": ("1", "train.device=cpu", "rank 1 cannot: Horovod cannot be imported"),
    "engine": ("1", "grid.engine=horovod", "grid.engine = horovod on world rank 0 and torch on"),
    "version": (
        "1",
        "train.device=cpu",
        "and '0.0.1' on world rank 1; use one environment on all nodes",
    ),
    "network": (
        "1",
        "grid.engine=torch",
        "grid.engine = torch: rank 1 cannot reach rank 0 at 127.",
    ),
}


STARTED_APART = {
    "words": "overrides is [] on world rank 0 and ['evaluation.starts=3'] on world rank 1",
    "command": "command is 'evaluate' on world rank 0 and 'doctor' on world rank 1",
}


def test_all_ranks_hear_of_a_fault_and_end_together(config: Path, tmp_path: Path) -> None:
    """Before the first step, or because all fail: one command after the other in one job."""
    commands = {
        fault: ("fault", fault, at, "train", config, "--run", tmp_path / fault, option)
        for fault, (at, option, _) in AGREED.items()
    }
    commands["step"] = ("fault", "step", "0,1", "train", config, "--run", tmp_path / "step")
    for fault in STARTED_APART:
        commands[fault] = ("fault", fault, "1", "evaluate", tmp_path / "step")
    jobs = dict(zip(commands, run_commands(*commands.values(), ranks=2, cwd=tmp_path), strict=True))
    for fault, (_, _, message) in AGREED.items():
        (said,) = messages(jobs[fault])
        assert said.startswith("hpc-bnn train: ") and message in said, jobs[fault].text
        assert not (tmp_path / fault / "metrics.jsonl").exists()
    assert messages(jobs["step"]) == [
        f"hpc-bnn train: rank {rank}: rank {rank} lost its data" for rank in (0, 1)
    ]
    for fault, message in STARTED_APART.items():
        same = "start all ranks by the same command"
        assert messages(jobs[fault]) == [f"hpc-bnn evaluate: command line: {message}; {same}"]
    for ended in jobs.values():
        assert ended.status == 2, ended.text
        assert "Traceback" not in ended.err, ended.text


@pytest.mark.parametrize(
    ("fault", "rank", "message"),
    [
        ("file", 1, "rank 1: [Errno 2] No such file or directory: 'era5_2017.nc'"),
        ("memory", 1, "rank 1: Unable to allocate 7.45 GiB for an array"),
        ("disk", 0, "rank 0: [Errno 28] No space left on device: 'metrics.jsonl'"),
        ("close", 0, "rank 0: [Errno 28] No space left on device: 'metrics.jsonl'"),
    ],
)
def test_one_rank_fails_and_the_others_wait(
    config: Path, tmp_path: Path, fault: str, rank: int, message: str
) -> None:
    ended = end(config, tmp_path / "run", fault, f"{rank}")
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.err, ended.text
    assert len(ended.err.splitlines()) < 40, ended.text
    (said,) = messages(ended)
    assert said.startswith("hpc-bnn train: "), ended.text
    assert message in said, ended.text
    assert (fault == "memory") == ("lower train.batch_size" in ended.err), ended.text
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == list(range(len(steps)))
    assert len(steps) <= (20 if fault == "close" else 3)


def test_ranks_that_fail_for_different_reasons(config: Path, tmp_path: Path) -> None:
    """Some while the others wait: one rank says it all."""
    ended = end(config, tmp_path / "run", "step", "1,2", ranks=3)
    assert ended.status == 2, ended.text
    assert messages(ended) == [
        f"hpc-bnn train: rank {rank}: rank {rank} lost its data" for rank in (1, 2)
    ]


@pytest.mark.parametrize("at", ["1", "0,1"])
def test_an_error_that_no_user_can_mend(config: Path, tmp_path: Path, at: str) -> None:
    ended = end(config, tmp_path / "run", "bug", at)
    assert ended.status == 1, ended.text
    assert ended.err.count("Traceback") == 1, ended.text
    assert ended.err.count("KeyError: 'nobody expected this'") == 1, ended.text


def test_a_rank_that_leaves_python(config: Path, tmp_path: Path) -> None:
    """With the status of success, which is none here; the other rank waits in its step."""
    ended = end(config, tmp_path / "run", "exit", "1")
    assert ended.status == 1, ended.text
    assert messages(ended) == [
        (
            "hpc-bnn train: rank 1: a rank's own code left Python in the midst of the command "
            "(SystemExit: 0)"
        )
    ]


def test_too_few_threads(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPI4PY_RC_THREAD_LEVEL", "serialized")
    words = ("train", config, "--run", tmp_path / "run")
    ended = run("-m", "hpc_bnn", *words, ranks=2, cwd=tmp_path)
    assert ended.status == 2, ended.text
    (said,) = messages(ended)
    assert "expected MPI_THREAD_MULTIPLE; unset MPI4PY_RC_THREADS" in said, ended.text


def test_a_worker_that_runs_the_script_again(tmp_path: Path) -> None:
    """It would connect as a second process of its rank, and wait for ever."""
    ended = run(SCRIPT, "spawn", "gaussian_nll", ranks=2, cwd=tmp_path)
    assert ended.status == 3, ended.text
    assert 'put what it does under if __name__ == "__main__":' in ended.err, ended.text
