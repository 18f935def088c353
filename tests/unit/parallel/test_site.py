"""How ranks are started: what a site file says, what a machine without one needs."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpc_bnn.parallel import site as here
from hpc_bnn.parallel.site import (
    AS_ROOT,
    OPEN_MPI_FLAGS,
    SITE_FILE,
    Site,
    cores,
    launcher_words,
    rank_environment,
    read_site,
)

CLUSTER = Site("one", "srun", ("--mpi=pmix",), ("--cpu-bind=cores",), {"A": "site", "B": "site"})
WORKSTATION = Site("two", "mpirun", ("--flag",), ("--bind-to", "none"))


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with srun, and an mpirun that may become anything, beside this Python."""
    for name in ("mpirun", "srun"):
        program(tmp_path / name, "mpirun (Open MPI) 5.0.11")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    here.is_open_mpi.cache_clear()
    return tmp_path


def program(path: Path, version: str) -> None:
    path.write_text(f"#!/bin/sh\necho '{version}'\n", encoding="utf-8")
    path.chmod(0o755)


def test_the_site_of_an_environment_stands_beside_it(tmp_path: Path) -> None:
    assert read_site(tmp_path / "env") == Site()
    content = {
        "site": "one",
        "launcher": "srun",
        "flags": ["--mpi=pmix"],
        "binding": ["--cpu-bind=cores"],
        "environment": ["A=site", "B=x=y"],
    }
    (tmp_path / SITE_FILE).write_text(json.dumps(content), encoding="utf-8")
    expected = Site(
        "one", "srun", ("--mpi=pmix",), ("--cpu-bind=cores",), {"A": "site", "B": "x=y"}
    )
    assert read_site(tmp_path / "env") == expected
    (tmp_path / SITE_FILE).write_text(json.dumps({**content, "environment": ["A"]}))
    with pytest.raises(ValueError, match=rf"{tmp_path}/{SITE_FILE}: expected site, launcher"):
        read_site(tmp_path / "env")


def test_mpirun_outside_an_allocation(beside: Path) -> None:
    mpirun = str(beside / "mpirun")
    assert launcher_words(WORKSTATION, {}) == [mpirun, "--flag", "--bind-to", "none"]
    assert launcher_words(Site(), {}) == [mpirun, *OPEN_MPI_FLAGS]
    assert launcher_words(CLUSTER, {}) == [mpirun, *OPEN_MPI_FLAGS], "of srun are its flags"


def test_another_mpi_knows_no_options_of_open_mpi(beside: Path) -> None:
    program(beside / "mpirun", "HYDRA build details: Version: 4.2.0")
    assert launcher_words(Site(), {}) == [str(beside / "mpirun")]


def test_srun_inside_an_allocation(beside: Path) -> None:
    job = {"SLURM_JOB_ID": "7", "PATH": str(beside)}
    whole = ["srun", "--mpi=pmix", "--cpu-bind=cores", "--kill-on-bad-exit=1"]
    assert launcher_words(CLUSTER, job) == whole
    wheel = ["srun", "--mpi=pmix", "--kill-on-bad-exit=1"]
    assert launcher_words(WORKSTATION, job) == wheel, "of mpirun are its flags"
    assert launcher_words(Site(), job) == ["srun", "--mpi=pmix", "--kill-on-bad-exit=1"]
    (beside / "mpirun").unlink()
    assert launcher_words(Site(), job) == ["srun", "--kill-on-bad-exit=1"]
    with pytest.raises(FileNotFoundError, match="mpirun: not beside this Python and not on PATH"):
        launcher_words(Site(), {**job, "PATH": "/nowhere"})


def test_what_the_user_has_set_goes_before_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    found = rank_environment(CLUSTER, {"B": "mine"}, ranks=1)
    assert found == {**AS_ROOT, "A": "site", "B": "mine", "OMP_NUM_THREADS": str(cores())}
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    many = rank_environment(Site(), {"OMP_NUM_THREADS": "3"}, ranks=64 * cores())
    assert many == {"OMP_NUM_THREADS": "3", "OMPI_MCA_mpi_yield_when_idle": "1"}


def test_ranks_of_an_allocation_take_its_cores() -> None:
    found = rank_environment(Site(), {"SLURM_CPUS_PER_TASK": "9"}, ranks=None)
    assert (found["SRUN_CPUS_PER_TASK"], found["OMP_NUM_THREADS"]) == ("9", "9")
    assert rank_environment(Site(), {}, ranks=None) == {}
    local = replace(WORKSTATION, environment={"OMPI_MCA_btl": "^tcp"})
    assert rank_environment(local, {}, ranks=None) == {}, "nodes do not share memory"
