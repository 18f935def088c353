"""A whole scaling study on this host, from the study file to the projection."""

import json
from pathlib import Path

import yaml
from launch import LIMIT_S, Ended, Job, run_here

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
    for name in ("scaling", "memory", "loss"):
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


def test_studies_are_not_run_under_mpirun(tmp_path: Path) -> None:
    """Not even on one rank."""
    ended = scaling("run", tmp_path, cwd=tmp_path, ranks=1)
    assert ended.status != 0
    assert "start this command without mpirun" in ended.text
