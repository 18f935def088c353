"""scaling.sh: one job per mode and number of nodes, samples in step with the ranks."""

import shlex
import subprocess
from pathlib import Path

import pytest


def points(folder: Path, *arguments: str) -> list[list[str]]:
    """Return the sbatch commands it would run."""
    script = folder / "jobscripts" / "scaling.sh"
    done = subprocess.run(
        ["bash", script, "--print", *arguments], capture_output=True, text=True, check=True
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_points(rendered: dict[str, Path]) -> None:
    folder = rendered["lumi_g"]
    made = points(
        folder, "--nodes", "1 4", "--modes", "sample data", "swin.yaml", "train.steps=50",
        "--", "-A", "project",
    )  # fmt: skip
    assert len(made) == 4
    assert made[1] == [
        "sbatch", "--job-name=scaling-swin", "--nodes=4", "--ntasks-per-node=8",
        "--dependency=singleton", "-A", "project", str(folder / "jobscripts" / "train.sbatch"),
        "swin.yaml", "train.steps=50", "grid.mode=sample", "posterior.samples=32",
        "--run", "runs/scaling-swin/sample-4x8",
    ]  # fmt: skip
    assert [command[-3] for command in made] == [f"posterior.samples={k}" for k in (8, 32, 8, 32)]


def test_independent_points_with_more_samples(rendered: dict[str, Path]) -> None:
    made = points(
        rendered["generic_slurm"], "--independent", "--samples-per-rank", "3",
        "--ranks-per-node", "2", "--nodes", "2", "--runs", "r", "a.yaml",
    )  # fmt: skip
    assert len(made) == 3
    for command in made:
        assert "--dependency=singleton" not in command
        assert {"--ntasks-per-node=2", "posterior.samples=12"} < set(command)
        assert command[-1].startswith("r/")


def test_points_of_a_plan(rendered: dict[str, Path], tmp_path: Path) -> None:
    plan = tmp_path / "a study"
    (plan / "points" / "done").mkdir(parents=True)
    (plan / "points" / "done" / "summary.json").touch()
    (plan / "settings.yaml").touch()
    lines = ["done\t1\t4\tseed=1", "small\t1\t4\tseed=1\ttrain.steps=3", "large\t8\t4\tseed=1"]
    (plan / "points.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    folder = rendered["horeka"]
    script = folder / "jobscripts" / "scaling.sh"
    words = ["bash", script, "--print", "--plan", plan, "--", "-A", "project"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == "scaling.sh: done is finished\n"
    # --print shows words, it does not quote them.
    small, large = done.stdout.splitlines()
    train = folder / "jobscripts" / "train.sbatch"
    assert small == (
        "sbatch --job-name=scaling-a study --nodes=1 --ntasks-per-node=4 --dependency=singleton "
        f"-A project {train} {plan}/settings.yaml seed=1 train.steps=3 --run {plan}/points/small"
    )
    assert "--nodes=8 --ntasks-per-node=4" in large and large.endswith(f"{plan}/points/large")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "usage: scaling.sh"),
        (["--nodes", "1 two", "a.yaml"], "two: must be a whole number"),
        (["--modes", "local", "a.yaml"], "local: no grid.mode of many ranks"),
        (["--plan", "absent"], "absent: no plan; make one with hpc-bnn scaling plan"),
        (
            ["--plan", "p", "a.yaml", "seed=1"],
            "--plan p holds its settings: leave out a.yaml seed=1",
        ),
        (["-A", "project", "a.yaml"], "-A: unknown option; options of sbatch go after --"),
    ],
)
def test_wrong_arguments(rendered: dict[str, Path], arguments: list[str], said: str) -> None:
    script = rendered["horeka"] / "jobscripts" / "scaling.sh"
    done = subprocess.run(["bash", script, "--print", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert not done.stdout
