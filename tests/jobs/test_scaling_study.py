"""A whole scaling study on this host, from the study file to the projection."""

import json
from pathlib import Path

import pytest
import yaml
from launch import LIMIT_S, Ended, Job, run, run_here

PNG = b"\x89PNG\r\n\x1a\n"
STUDY = {
    "config": "tiny.yaml",
    "kinds": ["fixed_samples", "proportional_samples"],
    "modes": ["sample", "data"],
    "ranks": [1, 2],
    "repeats": 1,
    "steps": 12,
    "warmup_steps": 2,
}


def scaling(*words: str | Path, cwd: Path, ranks: int = 0) -> Ended:
    """Run a command; one of them starts five jobs."""
    job = Job("-m", "hpc_bnn", "scaling", *words, ranks=ranks, cwd=cwd)
    return job.wait(5 * LIMIT_S)


def test_from_plan_to_projection(config: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(config.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    runs = tmp_path / "runs"
    planned = run_here("scaling", "plan", "study.yaml", "--runs", runs, cwd=tmp_path)
    assert planned.status == 0, planned.text
    assert "5 runs of 12 steps" in planned.out

    ran = scaling("run", runs, cwd=tmp_path)
    assert ran.status == 0, ran.text
    assert "5 of 5 points are finished" in ran.out
    again = run_here("scaling", "run", runs, cwd=tmp_path)
    assert again.status == 0 and again.err.count("is finished") == 5, again.text

    collected = run_here("scaling", "collect", runs, cwd=tmp_path)
    assert collected.status == 0, collected.text
    assert len((runs / "scaling.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6

    plotted = run_here("scaling", "plot", runs, cwd=tmp_path)
    assert plotted.status == 0, plotted.text
    for name in ("scaling", "speedup", "efficiency", "memory", "loss"):
        assert (runs / f"{name}.png").read_bytes().startswith(PNG)

    # The exchanges of two ranks are timed first.
    words = ("project", runs, "--measure", "--max-ranks", "64", "--hold-out", "2")
    measured = scaling(*words, cwd=tmp_path, ranks=2)
    assert measured.status == 2 and "needs at least 3" in measured.text  # one point is left
    projected = run_here("scaling", "project", runs, "--max-ranks", "64", cwd=tmp_path)
    assert projected.status == 0, projected.text
    assert "error leaving one point out: median" in projected.out
    assert "data parallelism" in projected.out
    content = json.loads((runs / "projection.json").read_text(encoding="utf-8"))
    assert {entry["ranks"] for entry in content["projected"]} >= {1, 2, 4}
    assert content["errors"]["of the fit"]["count"] == 5
    timed = json.loads((runs / "exchanges.json").read_text(encoding="utf-8"))["exchanges"]
    assert [(entry["ranks"], entry["nodes"]) for entry in timed] == [(2, 1), (2, 1)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_studies_are_not_run_under_mpirun(tmp_path: Path, ranks: int) -> None:
    ended = scaling("run", tmp_path, cwd=tmp_path, ranks=ranks)
    assert ended.status != 0
    assert "start this command without mpirun" in ended.text


def test_auto_grid_from_the_command_line(config: Path, tmp_path: Path) -> None:
    words = ("-m", "hpc_bnn", "train", config, "--run", tmp_path / "run", "grid.mode=auto")
    ended = run(*words, ranks=2, cwd=tmp_path)
    assert ended.status == 0, ended.text
    grid = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["grid"]
    candidates = grid["mode_auto"]["candidates"]
    assert [(c["sample_ranks"], c["data_ranks"]) for c in candidates] == [(1, 2), (2, 1)]
    best = min(candidates, key=lambda c: c["step_time_s"])
    assert grid["sample_ranks"] == best["sample_ranks"]
    assert ended.err.count("grid.mode = auto: ") == 2
    impossible = ("grid.mode=auto", "posterior.samples=5", "train.batch_size=7")
    ended = run(
        "-m", "hpc_bnn", "train", config, "--run", tmp_path / "no", *impossible, ranks=2,
        cwd=tmp_path,
    )  # fmt: skip
    assert ended.status == 2
    assert ended.text.count("no S x D = 2 ranks") == 1
