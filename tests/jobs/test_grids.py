"""One run, one answer: whole runs on several grids, and resumed on another grid after a kill.

Tolerances are those of the contract: 1e-10 in float64, 1e-5 in float32, relative.
"""

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
from launch import Job, run_commands
from outcome import Run, assert_same, killed_behind, read
from tiny_job import Train

PRECISE = ("train.precision=float64",)
CRPS = """
posterior: {samples: 12, samples_per_pass: 4}
loss: {name: almost_fair_crps, layout: transposed}
model: {name: mlp, hidden: [8]}
data: {name: synthetic_series, length: 300, history: 12, horizon: 4}
train: {steps: 10, batch_size: 12, lr: 0.003}
"""


@pytest.fixture(scope="session")
def uninterrupted(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run on one rank, in float64."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    ended = train(folder, *PRECISE, ranks=0)
    assert ended.status == 0, ended.text
    return read(folder)


def assert_same_on_grid(folder: Path, grid: tuple[int, int], uninterrupted: Run) -> None:
    got = read(folder)
    assert_same(got, uninterrupted, 1e-10)
    assert (got.summary["grid"]["sample_ranks"], got.summary["grid"]["data_ranks"]) == grid
    assert len(set(got.losses.values())) == len(got.losses)  # a run that trains


@pytest.mark.parametrize(("grid", "engine"), [((3, 1), "auto"), ((2, 2), "torch")])
def test_float64(
    train: Train, tmp_path: Path, uninterrupted: Run, grid: tuple[int, int], engine: str
) -> None:
    chosen = (f"grid.sample_ranks={grid[0]}", f"grid.engine={engine}")
    ended = train(tmp_path / "run", *PRECISE, *chosen, ranks=math.prod(grid))
    assert ended.status == 0, ended.text
    assert_same_on_grid(tmp_path / "run", grid, uninterrupted)


@pytest.fixture(scope="module")
def on_two_ranks(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which one job of two ranks has made several runs."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "crps.yaml").write_text(CRPS, encoding="utf-8")
    torch = ("grid.engine=torch",)
    small = ("train.steps=2", "data.length=400", "data.history=24", "model.width=8")
    commands = [
        ("train", config, "--run", "2x1", *PRECISE, "grid.sample_ranks=2"),
        ("train", config, "--run", "1x2", *PRECISE, "grid.sample_ranks=1"),
        ("train", config, "--run", "2x1-torch", *PRECISE, "grid.sample_ranks=2", *torch),
        ("fault", "apart", "0,1", "train", config, "--run", "1x2-torch")
        + (*PRECISE, "grid.sample_ranks=1", *torch),
        ("train", "crps.yaml", "--run", "crps", "grid.sample_ranks=2", "train.reduction=two_stage"),
        ("train", config, "--run", "auto", "grid.mode=auto"),
        ("train", "mlp_series.yaml", "--run", "here/run", *small),
    ]
    jobs = run_commands(*commands, ranks=2, cwd=folder)
    for ended in jobs:
        assert ended.status == 0, ended.text
    auto, bundled = jobs[-2:]
    assert auto.err.count("grid.mode = auto: ") == 2, auto.text
    assert bundled.out.startswith("here/run: 2 steps"), bundled.text
    return folder


@pytest.mark.parametrize("grid", [(2, 1), (1, 2)])
def test_float64_on_two_ranks(
    on_two_ranks: Path, uninterrupted: Run, grid: tuple[int, int]
) -> None:
    """Over either engine; sums of two numbers have one order, so the checksums are equal."""
    run = "{}x{}".format(*grid)
    for name in (run, f"{run}-torch"):
        assert_same_on_grid(on_two_ranks / name, grid, uninterrupted)
    first, other = (read(on_two_ranks / name).summary for name in (run, f"{run}-torch"))
    assert first["parameter_checksum"] == other["parameter_checksum"]
    assert first["engine"] == ("horovod" if find_spec("horovod") else "torch")
    assert other["engine"] == "torch"


def test_float32(on_two_ranks: Path, train: Train, tmp_path: Path) -> None:
    """Another loss: its members travel in forward and their gradients in backward."""
    alone = train(tmp_path / "alone", ranks=0, given=on_two_ranks / "crps.yaml")
    assert alone.status == 0, alone.text
    assert_same(read(on_two_ranks / "crps"), read(tmp_path / "alone"), 1e-5)


def test_the_fastest_grid(on_two_ranks: Path) -> None:
    grid = read(on_two_ranks / "auto").summary["grid"]
    candidates = grid["mode_auto"]["candidates"]
    assert [(c["sample_ranks"], c["data_ranks"]) for c in candidates] == [(1, 2), (2, 1)]
    best = min(candidates, key=lambda c: c["step_time_s"])
    assert grid["sample_ranks"] == best["sample_ranks"]


def test_paths_are_those_of_the_working_folder(on_two_ranks: Path) -> None:
    """And a bundled settings file goes by its name."""
    assert (on_two_ranks / "here" / "run" / "summary.json").is_file()


def test_kill_and_resume_on_another_grid(
    config: Path,
    train: Train,
    tmp_path: Path,
    uninterrupted: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Killed alone and resumed on four ranks; ``test_archive`` kills four and resumes on two."""
    folder, often = tmp_path / "run", [*PRECISE, "train.checkpoint_every=1"]
    job = Job("-m", "hpc_bnn", "train", config, "--run", folder, *often, ranks=1, cwd=tmp_path)
    seconds, victim = killed_behind(job, folder, step=3)
    with capsys.disabled():
        print(f"\nall ended {seconds:.2f} s after kill -9 of rank {victim}")
    resumed = train(folder, *often, "grid.sample_ranks=4", "--resume", ranks=4)
    assert resumed.status == 0, resumed.text
    assert "resumed from" in resumed.err
    assert_same(read(folder), uninterrupted, 1e-10)
