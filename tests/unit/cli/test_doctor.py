"""``doctor``: a table of what is built and wired, and an exit status."""

import shutil
import sys
from pathlib import Path

import pytest
from tiny_run import hpc_bnn

from hpc_bnn.parallel.comms import SOLO
from hpc_bnn.study import doctor
from hpc_bnn.study.doctor import Finding, diagnose

LISTED = ("hpc_bnn", "torch", "devices", "noise kernel (cpu)", "MPI", "Horovod", "collective")


def table(out: str) -> dict[str, str]:
    """Return the lines by what they are about."""
    rows = [line.split(maxsplit=1) for line in out.splitlines() if line[:3] in ("ok ", "BAD")]
    assert all(mark == "ok" for mark, _ in rows), out
    return {text.split("  ")[0]: text for _, text in rows}


def without_launcher(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(sys, "executable", str(empty / "python"))


def test_a_whole_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a launcher here: the collective of two ranks has a test of its own below."""
    without_launcher(monkeypatch, tmp_path)
    assert hpc_bnn("doctor") == 0
    found = table(capsys.readouterr().out)
    for what in LISTED:
        assert any(what in name for name in found), what
    assert "noise_cpu" in found["noise kernel (cpu)"]
    assert any("skipped" in text for name, text in found.items() if "collective" in name)


@pytest.mark.skipif(
    shutil.which("mpirun", path=str(Path(sys.executable).parent)) is None,
    reason="no mpirun beside this Python",
)
def test_a_collective_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("horovod")
    monkeypatch.setenv("OMPI_MCA_mpi_yield_when_idle", "1")
    finding = doctor._collective_of_two()
    assert finding.good, finding.value
    assert finding.value.startswith("correct, ")


def test_a_bad_finding_is_shown_with_its_remedy_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("torch", "2"), Finding("MPI", "none", False, "install an MPI")]
    monkeypatch.setattr("hpc_bnn.cli.diagnose", lambda channel: findings)
    assert hpc_bnn("doctor") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "torch", "2"]
    assert lines[1].split() == ["BAD", "MPI", "none"]
    assert lines[2].split() == ["->", "install", "an", "MPI"]


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_launcher(monkeypatch, tmp_path)
    monkeypatch.setattr(doctor, "KNOWN_WORDS", [1, 2, 3, 4])
    (bad,) = [finding for finding in diagnose(SOLO) if not finding.good]
    assert bad.what == "noise kernel (cpu)"
    assert "wrong words" in bad.value
    assert "rebuild" in bad.remedy


def test_the_sum_over_one_rank_is_checked() -> None:
    assert doctor.sum_over_world(SOLO) >= 0.0
