"""Worlds that do not connect, and the name of the MPI library."""

import re
from pathlib import Path

import pytest

from hpc_bnn.cli.program import main
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.launcher import LAUNCHER_SIZES, NODE_RANKS, PROCESS
from hpc_bnn.parallel.mpi import connect, library_version


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher has spoken to this process, until a test says so."""
    pytest.importorskip("mpi4py")
    for name in {*LAUNCHER_SIZES, *NODE_RANKS, "SLURM_JOB_ID", "SLURM_STEP_ID"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(PROCESS, raising=False)
    return monkeypatch


def test_worlds_of_one_rank_are_refused(
    no_launcher: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_launcher.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert main(["train", "mlp_series.yaml", "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert re.search(r"OMPI_COMM_WORLD_SIZE = 4, but MPI connects 1 rank", said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", LAUNCHER_SIZES)
def test_every_launcher_is_believed(variable: str, no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv(variable, "4")
    with pytest.raises(RuntimeError, match=rf"{variable} = 4, but .*MPI"):
        connect()
    no_launcher.setenv(variable, "1")
    assert connect() is ALONE


def test_library_version_is_one_line() -> None:
    assert library_version()
    assert "\n" not in library_version()
