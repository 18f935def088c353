"""``doctor``: a table of what is built and wired, and an exit status."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_run import hpc_bnn

from hpc_bnn.group import ALONE
from hpc_bnn.study import doctor, machine, software
from hpc_bnn.study.doctor import diagnose
from hpc_bnn.study.machine import Place
from hpc_bnn.study.software import Finding

ENGINES = ("Horovod", "torch.distributed")
LISTED = ("hpc_bnn", "torch", "noise kernel (cpu)", "MPI", *ENGINES, "ranks", "run folder")


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
    assert any("skipped" in text for name, text in found.items() if "exchange" in name)


@pytest.mark.skipif(
    shutil.which("mpirun", path=str(Path(sys.executable).parent)) is None,
    reason="no mpirun beside this Python",
)
def test_a_collective_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each engine that is there."""
    monkeypatch.setenv("OMPI_MCA_mpi_yield_when_idle", "1")
    findings = doctor.exchange_of_two()
    assert all(finding.good for finding in findings), findings
    values = {finding.what.removeprefix("exchange of 2 ranks, "): finding for finding in findings}
    assert tuple(values) == ENGINES
    for engine, finding in values.items():
        there = engine != "Horovod" or find_spec("horovod")
        assert finding.value.endswith("sums correct" if there else "skipped: not installed")


def test_a_bad_finding_is_shown_with_its_remedy_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("torch", "2"), Finding("MPI", "none", False, "install an MPI")]
    monkeypatch.setattr("hpc_bnn.study.doctor.diagnose", lambda channel, folder: findings)
    assert hpc_bnn("doctor") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "torch", "2"]
    assert lines[1].split() == ["BAD", "MPI", "none"]
    assert lines[2].split() == ["->", "install", "an", "MPI"]


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_launcher(monkeypatch, tmp_path)
    monkeypatch.setattr(software, "KNOWN_WORDS", [1, 2, 3, 4])
    (bad,) = [finding for finding in diagnose(ALONE, tmp_path) if not finding.good]
    assert bad.what == "noise kernel (cpu)"
    assert "wrong words" in bad.value
    assert "rebuild" in bad.remedy


def place(host: str, cores: set[int], threads: int, node_cores: int) -> Place:
    return Place(host, frozenset(cores), frozenset(), threads, node_cores)


def test_ranks_on_too_few_cores_are_found() -> None:
    places = [place("n1", {0, 1}, 1, 8), place("n1", {2, 3}, 1, 8), *[place("n2", {0}, 1, 8)] * 2]
    good, bad = machine.core_findings(places)
    assert good.good and "0: 0-1; 1: 2-3 of 8" in good.value
    assert not bad.good and "2 ranks share 1 core(s)" in bad.remedy
    (whole_node,) = machine.core_findings([place("n1", {0, 1}, 1, 2)] * 3)
    assert whole_node.good
    few = [place("n1", {0}, 8, 64), place("n1", {0, 1, 2, 3}, 8, 64)]
    assert not machine.core_findings(few)[0].good


def test_a_node_with_more_ranks_than_devices_is_found() -> None:
    one, both = (Place("n1", frozenset(), frozenset(gpus), 1, 8) for gpus in ("a", "ab"))
    (bad,) = machine.gpu_findings([one, one])
    assert not bad.good and "1 different" in bad.value
    (good,) = machine.gpu_findings([both, both])
    assert good.good


def test_two_copies_of_a_library_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    monkeypatch.setattr(software, "MAPS", maps)
    line = "7f00-7f01 r-xp 00000000 08:01 1 {}\n"
    maps.write_text(line.format("/a/libmpi.so.40") * 3)
    assert software.loaded_once("MPI", r"libmpi\.so").good
    maps.write_text(line.format("/a/libmpi.so.40") + line.format("/b/libmpi.so.12"))
    found = software.loaded_once("MPI", r"libmpi\.so")
    assert not found.good and found.value == "/a/libmpi.so.40, /b/libmpi.so.12"


def test_an_environment_whose_path_holds_a_space(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    beside = tmp_path / "an environment" / "bin"
    beside.mkdir(parents=True)
    for name, says in (("mpirun", "mpirun (Open MPI) 99.0.1"), ("python", "")):
        (beside / name).write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
        (beside / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setattr(software, "library_version", lambda: "Open MPI v99.0.5")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    found = software.launcher()
    assert found.good
    assert found.value == f"{beside}/mpirun, mpirun (Open MPI) 99.0.1"
    maps = tmp_path / "maps"
    line = "7f00-7f01 r-xp 00000000 08:01 1{}{}\n7f02-7f03 rw-p 00000000 00:00 0 \n"
    library = beside.parent / "lib" / "libmpi.so.40"
    maps.write_text(line.format(" " * 20, library) + line.format(" ", f"{library} (deleted)"))
    monkeypatch.setattr(software, "MAPS", maps)
    assert software.loaded_once("MPI", r"libmpi\.so").value == str(library)


def test_a_folder_that_cannot_hold_runs_is_found(tmp_path: Path) -> None:
    (absent,) = machine.folder_findings(tmp_path / "nowhere")
    assert not absent.good and "no such folder" in absent.value
    assert machine.folder_findings(tmp_path)[1].value == "writable, with locks"


@pytest.mark.parametrize(
    ("numbers", "text"), [([3, 0, 1, 2, 8], "0-3,8"), ([5], "5"), ([], ""), ([1, 3], "1,3")]
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert machine.ranges(numbers) == text
