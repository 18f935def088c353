"""A run that is stopped, at whatever moment, ends as if it had not been; one that has lost its
folder writes nothing more.
"""

import itertools
import shutil
import signal
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from tiny_run import SERIES, assert_equal_runs, checkpoints, hpc_bnn, metrics, read_json, written

from hpc_bnn.cli import program as cli
from hpc_bnn.config import Settings
from hpc_bnn.lock import hold
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run import stop
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import StepProgress
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.run.stop import Stop, Unfinished

STEPS, EVERY = SERIES["train"]["steps"], SERIES["train"]["validate_every"]
LOOKS = 2  # in a validation, before each of its batches
ALONE = World(Grid(1, 1, 0), torch.device("cpu"))


def run(folder: Path, *, stop_at: int = 0) -> int:
    """Train; the run is asked to stop at so many looks. Return how many looks there were."""
    looks = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stop, "_agree", lambda *_: "signal SIGTERM" if next(looks) == stop_at else "")
        train(Settings.model_validate(SERIES), ALONE, RunFolder(folder), resume=True)
    return next(looks) - 1


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(folder) == STEPS + 2 * LOOKS
    return folder


@pytest.mark.parametrize(
    ("stop_at", "step"),
    [
        pytest.param(EVERY, 3, id="a validation is due"),
        pytest.param(EVERY + 1, 3, id="a validation begins"),
        pytest.param(EVERY + LOOKS, 3, id="a validation nearly over"),
        pytest.param(STEPS + LOOKS, 6, id="after the last step"),
        pytest.param(STEPS + 2 * LOOKS, 6, id="in the last validation"),
    ],
)
def test_stopped_and_resumed(uninterrupted: Path, tmp_path: Path, stop_at: int, step: int) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Unfinished, match=rf"signal SIGTERM: stopped after step {step} of 6, with"):
        run(folder, stop_at=stop_at)
    assert checkpoints(folder)[-1] == f"step-{step:08d}.pt"
    scored = [row["step"] + 1 for row in metrics(folder) if "validation_rmse" in row]
    assert scored == list(range(EVERY, step, EVERY))  # no half scores
    assert not (folder / "summary.json").exists()
    looks = run(folder)
    assert looks == STEPS - step + LOOKS * (2 - step // STEPS)  # what was broken off, and the rest
    assert_equal_runs(folder, uninterrupted)
    summary = read_json(folder / "summary.json")
    times, rate = summary["step_time_s"], summary["examples_per_s"]
    if step == STEPS:  # made by the job before: this one has timed none
        assert (times, rate) == ({"median": None, "p90": None}, None)
        assert set(summary["phases_s"].values()) == {None}
    else:
        assert times["median"] > 0 and rate > 0


def take_away(what: str, run: Path) -> None:
    if what == "folder":
        shutil.rmtree(run)
    else:
        (run / "lock").unlink()
    if what == "lock, and another job has it":
        (run / "lock").write_text("Slurm job 8 on n2\n", encoding="utf-8")


@pytest.mark.parametrize("what", ["folder", "lock", "lock, and another job has it"])
@pytest.mark.parametrize("looks", [True, False], ids=["between steps", "before a checkpoint"])
def test_a_run_that_loses_its_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    looks: bool,
) -> None:
    folder = tmp_path / "run"
    log = StepProgress.log

    def taking(self: StepProgress, done: int, loss: float) -> None:
        log(self, done, loss)
        if done == 3:
            take_away(what, folder)

    monkeypatch.setattr(StepProgress, "log", taking)
    monkeypatch.setattr(stop, "LOOK_S", 0.0 if looks else 1e9)
    config = written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "--run", folder) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    said = {
        "folder": f"hpc-bnn train: {folder}/lock: the lock of this run is gone",
        "lock": f"hpc-bnn train: {folder}/lock: the lock of this run is gone",
    }.get(what, f"hpc-bnn train: {folder}: Slurm job 8 on n2 has taken this run folder over")
    assert err.count(said) == err.count("hpc-bnn train: ") == 1
    if what == "folder":
        assert not folder.exists()
        return
    assert checkpoints(folder) == ["step-00000002.pt"]
    assert len([row for row in metrics(folder) if "loss" in row]) == (3 if looks else 4)
    if what != "lock":
        assert (folder / "lock").read_text(encoding="utf-8") == "Slurm job 8 on n2\n"


def test_a_restart_takes_the_folder_over_from_the_job_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    config = written(tmp_path / "tiny.yaml", SERIES)
    monkeypatch.setenv("SLURM_JOB_ID", "50")
    assert hpc_bnn("train", config, "train.steps=6", "--run", folder) == 0
    with hold(folder / "lock"):  # frozen: the system holds it still
        assert hpc_bnn("train", config, "--run", folder, "--resume") == 2
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        assert hpc_bnn("train", config, "--run", folder, "--resume") == 0


def test_nothing_ends_a_rank_that_has_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Horovod ends: signals that come again are ignored, and the note is there."""
    note, seen = tmp_path / "note", []
    numbers = (signal.SIGUSR2, signal.SIGTERM)

    def unfinished(*words: object, **more: object) -> NoReturn:
        raise Unfinished("signal SIGTERM", done=2, total=6)

    def ending(self: World) -> None:
        seen.append([*map(signal.getsignal, numbers), note.read_text(encoding="utf-8")])

    monkeypatch.setenv("HPC_BNN_NOTE", str(note))
    monkeypatch.setattr(cli, "train", unfinished)
    monkeypatch.setattr(cli, "leave_together", lambda world, status: status)
    monkeypatch.setattr(World, "stop", ending)
    note.write_text("", encoding="utf-8")
    before = [signal.getsignal(number) for number in numbers]
    try:
        config = written(tmp_path / "tiny.yaml", SERIES)
        assert hpc_bnn("train", config, "--run", tmp_path / "run") == 85
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert seen == [[signal.SIG_IGN, signal.SIG_IGN, "85\n"]]
