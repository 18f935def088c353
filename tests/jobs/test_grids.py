"""One run, one answer: whole runs on several grids, and resumed on another grid after a kill.

Tolerances are those of the contract: 1e-10 in float64, 1e-5 in float32, relative.
"""

from pathlib import Path

import pytest
from launch import Job, run_commands
from outcome import Run, assert_same, killed_behind, read
from tiny_job import Train

GRIDS = {2: [(2, 1), (1, 2)], 3: [(3, 1)], 4: [(2, 2)]}  # by the number of ranks
PRECISE = ("train.precision=float64",)


@pytest.fixture(scope="session")
def uninterrupted(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run on one rank, in float64."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    ended = train(folder, *PRECISE, ranks=0)
    assert ended.status == 0, ended.text
    return read(folder)


@pytest.mark.parametrize("ranks", GRIDS)
def test_float64(config: Path, tmp_path: Path, uninterrupted: Run, ranks: int) -> None:
    folders = {grid: tmp_path / "{}x{}".format(*grid) for grid in GRIDS[ranks]}
    commands = [
        ("train", config, "--run", folder, *PRECISE, f"grid.sample_ranks={sample_ranks}")
        for (sample_ranks, _), folder in folders.items()
    ]
    for ended in run_commands(*commands, ranks=ranks, cwd=tmp_path):
        assert ended.status == 0, ended.text
    for (sample_ranks, data_ranks), folder in folders.items():
        got = read(folder)
        assert_same(got, uninterrupted, 1e-10)
        assert got.summary["grid"]["sample_ranks"] == sample_ranks
        assert got.summary["grid"]["data_ranks"] == data_ranks
        assert len(set(got.losses.values())) == len(got.losses)  # a run that trains


def test_float32(train: Train, tmp_path: Path) -> None:
    """Another loss: its members travel in forward and their gradients in backward."""
    crps = tmp_path / "crps.yaml"
    crps.write_text(CRPS, encoding="utf-8")
    alone = train(tmp_path / "alone", ranks=0, given=crps)
    spread = train(
        tmp_path / "spread", "grid.sample_ranks=2", "train.reduction=two_stage", ranks=2, given=crps
    )
    assert (alone.status, spread.status) == (0, 0), alone.text + spread.text
    assert_same(read(tmp_path / "spread"), read(tmp_path / "alone"), 1e-5)


CRPS = """
posterior: {samples: 12, samples_per_pass: 4}
loss: {name: almost_fair_crps, layout: transposed}
model: {name: mlp, hidden: [8]}
data: {name: synthetic_series, length: 300, history: 12, horizon: 4}
train: {steps: 10, batch_size: 12, lr: 0.003}
"""


# Killed with four ranks and resumed on one; killed alone and resumed on four.
@pytest.mark.parametrize(
    ("before", "after"), [((2, 2), (1, 1)), ((1, 1), (4, 1))], ids=["2x2-1x1", "1x1-4x1"]
)
def test_kill_and_resume_on_another_grid(
    config: Path,
    train: Train,
    tmp_path: Path,
    uninterrupted: Run,
    capsys: pytest.CaptureFixture[str],
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    folder, ranks = tmp_path / "run", before[0] * before[1]
    often = [*PRECISE, "train.checkpoint_every=1"]
    job = Job(
        "-m", "hpc_bnn", "train", config, "--run", folder, *often,
        f"grid.sample_ranks={before[0]}", ranks=ranks, cwd=tmp_path,
    )  # fmt: skip
    seconds, victim = killed_behind(job, folder, step=3)
    with capsys.disabled():
        print(f"\n{ranks} rank(s): all ended {seconds:.2f} s after kill -9 of rank {victim}")

    resumed = train(
        folder, *often, f"grid.sample_ranks={after[0]}", "--resume", ranks=after[0] * after[1]
    )
    assert resumed.status == 0, resumed.text
    assert "resumed from" in resumed.err
    assert_same(read(folder), uninterrupted, 1e-10)
