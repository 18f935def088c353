"""``hpc-bnn scaling`` as a user runs it: what each command prints, writes and answers."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from tiny_run import SERIES, hpc_bnn

PNG = b"\x89PNG\r\n\x1a\n"
STUDY = {
    "config": "tiny.yaml",
    "kinds": ["fixed_samples", "proportional_samples"],
    "modes": ["sample", "data"],
    "ranks": [1, 2],
    "repeats": 2,
    "steps": 8,
    "warmup_steps": 2,
}
# Stands for mpirun: trains the one-rank points here, without MPI, and fails the others.
LAUNCHER = """
import subprocess, sys
ranks, words = sys.argv[2], sys.argv[3:]
if ranks != "1":
    sys.exit("hpc-bnn train: no such ranks")
words.remove("mpi4py"), words.remove("-m")
sys.exit(subprocess.run(words).returncode)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SERIES), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return tmp_path / "study.yaml"


@pytest.fixture
def launcher(tmp_path: Path) -> str:
    path = tmp_path / "launcher.py"
    path.write_text(LAUNCHER, encoding="utf-8")
    return f"{sys.executable} {path}"


def test_plan_run_collect_plot(
    study: Path, launcher: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = study.parent / "runs"
    assert hpc_bnn("scaling", "plan", study, "--runs", runs) == 0
    said = capsys.readouterr().out
    assert "10 runs of 8 steps" in said and "warning: 2 repeat(s)" in said
    content = json.loads((runs / "plan.json").read_text())
    assert len(content["points"]) == 10 and len(content["fingerprint"]) == 64

    assert hpc_bnn("scaling", "collect", runs) == 1  # nothing yet
    assert capsys.readouterr().out.count("missing: ") == 10

    assert hpc_bnn("scaling", "run", runs, "--launcher", launcher) == 1
    answer = capsys.readouterr()
    assert "2 of 10 points are finished" in answer.out
    assert answer.out.count("failed: ranks2-") == 8
    assert "hpc-bnn train: no such ranks; status 1" in answer.err

    assert hpc_bnn("scaling", "collect", runs) == 1
    answer = capsys.readouterr()
    assert answer.out.count("failed: ") == 8 and "few_repeats" in answer.out
    lines = (runs / "scaling.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith("fixed_samples,local,1,1,1,1,2,16,2,12,")

    assert hpc_bnn("scaling", "plot", runs) == 0
    assert (runs / "scaling.png").read_bytes().startswith(PNG)
    assert (runs / "loss.png").read_bytes().startswith(PNG)

    # What is finished is not run again.
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("summary.json")}
    assert len(before) == 2
    capsys.readouterr()
    hpc_bnn("scaling", "run", runs, "--launcher", launcher)
    assert capsys.readouterr().err.count("is finished") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before

    assert hpc_bnn("scaling", "project", runs) == 2
    assert "needs at least 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "absent.yaml", "--runs", "r"], "absent.yaml: no such study file"),
        (["run", "absent"], "absent/plan.json: no plan; make one with hpc-bnn scaling plan"),
        (["collect", "absent"], "no plan"),
        (["plot", "absent"], "no plan"),
        (["project", "absent"], "no plan"),
        (["project", "absent", "--measure"], "no plan"),
    ],
)
def test_without_a_plan(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert hpc_bnn("scaling", *words) == 2
    assert said in capsys.readouterr().err


def test_a_command_that_starts_ranks_is_not_started_by_mpirun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "1")
    assert hpc_bnn("scaling", "run", "anywhere") == 2
    assert "start this command without mpirun" in capsys.readouterr().err


def test_several_nodes_are_for_a_batch_system(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**STUDY, "nodes": [1, 2], "ranks_per_node": 1}
    del content["ranks"]
    study.write_text(yaml.safe_dump(content), encoding="utf-8")
    runs = study.parent / "runs"
    assert hpc_bnn("scaling", "plan", study, "--runs", runs) == 0
    assert hpc_bnn("scaling", "run", runs) == 2
    assert "scaling.sh --plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--latency-us", "0"], ["--hold-out", "a"], ["--max-ranks", "-"]]
)
def test_wrong_options(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hpc_bnn("scaling", "project", "runs", *words)
    assert "expected a" in capsys.readouterr().err
