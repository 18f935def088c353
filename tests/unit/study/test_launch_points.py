"""How ``scaling run`` starts points, and what it notes of those that fail or hang."""

import logging
import shlex
import sys
from pathlib import Path

import pytest
from fabricated import make_run, plan

from hpc_bnn.parallel.site import OPEN_MPI_FLAGS, cores
from hpc_bnn.study.collect import collect
from hpc_bnn.study.launch import (
    command,
    environment,
    finished,
    read_attempt,
    run_plan,
)


def script(folder: Path, text: str) -> list[str]:
    """Return a launcher that runs a few lines of Python instead of ranks."""
    path = folder / "launcher.py"
    path.write_text(text, encoding="utf-8")
    return [sys.executable, str(path)]


def test_every_point_is_launched_alike(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for point in made.points:
        words = command(made, point, ["mpirun", "--flag"])
        assert words[:4] == ["mpirun", "--flag", "-n", str(point.ranks)]
        assert words[4:8] == [sys.executable, "-m", "mpi4py", "-m"]
        assert words[8:11] == ["hpc_bnn", "train", str(made.settings_file)]
        assert tuple(words[11:-3]) == point.overrides
        assert words[-3:] == ["--run", str(made.run_folder(point).path), "--resume"]


def test_the_environment_keeps_what_the_user_set_but_for_the_threads() -> None:
    given = {"OMP_NUM_THREADS": "64", "OMPI_MCA_mpi_yield_when_idle": "0", "HOME": "/h"}
    made = environment(given, threads=2)
    assert made["OMP_NUM_THREADS"] == "2"
    assert made["OMPI_MCA_mpi_yield_when_idle"] == "0"
    assert made["HOME"] == "/h"


def test_failures_are_noted_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["sample"], ranks=[1, 2], repeats=1)
    done, other = made.points
    make_run(made, done)
    launcher = script(tmp_path, "print('ValueError: no such thing'); raise SystemExit(7)")
    with caplog.at_level(logging.INFO, logger="hpc_bnn"):
        assert run_plan(made, launcher=launcher) == [other.name]
    assert finished(made, done) and not finished(made, other)
    assert f"{done.name} is finished" in caplog.text
    assert "no such thing; status 7" in caplog.text
    attempt = read_attempt(made.attempt(other))
    assert attempt is not None and attempt.status == 7 and attempt.cores == cores()
    assert "no such thing" in made.log(other).read_text(encoding="utf-8")
    assert read_attempt(made.attempt(done)) is None
    assert collect(made).absent[0].state == "failed"


def test_paths_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the launcher beside this Python, of the plan and of the data: words stay whole."""
    beside = tmp_path / "an environment" / "bin"
    beside.mkdir(parents=True)
    version = '[ "$1" != --version ] || { echo "mpirun (Open MPI) 5.0.11"; exit; }'
    said = f'#!/bin/sh\n{version}\nprintf \'%s\\n\' "$0" "$@"\n'
    (beside / "mpirun").write_text(said, encoding="utf-8")
    (beside / "mpirun").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    made = plan(
        tmp_path / "a plan", kinds=["fixed_samples"], modes=["local"], ranks=[1], repeats=1,
        overrides=["train.start_from=/an archive/run 1"],
    )  # fmt: skip
    point = made.points[0]
    assert run_plan(made) == [point.name]
    words = made.log(point).read_text(encoding="utf-8").splitlines()
    assert words == command(made, point, [str(beside / "mpirun"), *OPEN_MPI_FLAGS])
    assert made.settings().train.start_from == "/an archive/run 1"
    attempt = read_attempt(made.attempt(point))
    assert attempt is not None and shlex.split(attempt.command) == words


def test_a_run_that_ends_well_without_a_result_has_failed(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["local"], ranks=[1], repeats=1)
    assert run_plan(made, launcher=script(tmp_path, "")) == [made.points[0].name]
    assert collect(made).absent[0].state == "missing"


def test_a_run_that_hangs_is_ended(tmp_path: Path) -> None:
    made = plan(
        tmp_path, kinds=["fixed_samples"], modes=["local"], ranks=[1], repeats=1, timeout_s=0.5
    )
    run_plan(made, launcher=script(tmp_path, "import time; time.sleep(60)"))
    attempt = read_attempt(made.attempt(made.points[0]))
    assert attempt is not None and attempt.status is None and attempt.seconds < 30


def test_oversubscribed_points_are_marked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = 64 * cores()
    made = plan(
        tmp_path, ranks=[many], overrides=[f"posterior.samples={many}"], repeats=1,
        kinds=["fixed_samples"], modes=["sample"],
    )  # fmt: skip
    run_plan(made, launcher=script(tmp_path, ""))
    assert f"{many} ranks of 1 thread(s) share {cores()} core(s)" in caplog.text
    make_run(made, made.points[0])
    (row,) = collect(made).rows
    assert "oversubscribed" in row["flags"] and row["cores"] == cores() and row["threads"] == 1
