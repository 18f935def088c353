"""What a run leaves for others to read: files as the umask says, and nothing of the environment."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import SERIES, hpc_bnn, written

SECRET = "s3cr3t-0f-th1s-t3st"
NAMES = ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "SLURM_JWT", "UCX_AUTH_TOKEN", "MY_VARIABLE")
NAMES += ("OMPI_MCA_orte_precondition_transports", "HOROVOD_SECRET_KEY", "FI_PASSWORD")


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002], indirect=True)
def test_files_of_a_run_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """077 keeps them to oneself, 027 shows them to the group, 002 lets it write."""
    run = tmp_path / "run"
    config = written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "train.steps=2", "train.profile=0", "--run", run) == 0
    assert hpc_bnn("evaluate", run) == 0
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (run, *run.rglob("*"))}
    for path, mode in modes.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_nothing_of_the_environment_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("UCX_TLS", "all")
    run = tmp_path / "run"
    config = written(tmp_path / "tiny.yaml", SERIES)
    assert hpc_bnn("train", config, "train.steps=3", "train.profile=1", "--run", run) == 0
    assert hpc_bnn("evaluate", run) == 0
    assert hpc_bnn("report", run, "-o", tmp_path / "report.html") == 0
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    hpc_bnn("doctor")
    out, err = capsys.readouterr()
    assert "UCX_TLS=all" in out
    assert SECRET not in out + err
