"""The energy of a node from fake counters: each joule once, and what was counted is said."""

from pathlib import Path

import pytest
import torch

from hpc_bnn.train.run.energy import Energy, EnergyMeter, total

CPU = torch.device("cpu")


def zone(powercap: Path, folder: str, name: str, value: int, limit: int = 1_000_000) -> Path:
    counter = powercap / folder
    counter.mkdir()
    (counter / "name").write_text(f"{name}\n")
    (counter / "max_energy_range_uj").write_text(f"{limit}\n")
    (counter / "energy_uj").write_text(f"{value}\n")
    return counter / "energy_uj"


def meter(powercap: Path, *, packages: bool = True) -> EnergyMeter:
    return EnergyMeter(CPU, packages=packages, powercap=powercap)


def test_energy_of_all_packages_over_a_wrap(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    second = zone(tmp_path, "intel-rapl:1", "package-1-die-0", 999_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 77)  # a part of package 0: counted there
    made = meter(tmp_path)
    assert made.read() == Energy(0.0, ("package",))
    first.write_text("500005\n")
    second.write_text("1000\n")
    found = made.read()
    assert found is not None and found.joules == pytest.approx(0.5 + 0.002)
    second.write_text("2000\n")
    found = made.read()
    assert found is not None and found.joules == pytest.approx(0.5 + 0.003)


def test_the_platform_contains_its_packages(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 0, 262_143_328_850)
    platform = zone(tmp_path, "intel-rapl:1", "psys", 0, 262_143_328_850)
    zone(tmp_path, "intel-rapl:2", "dram", 0)  # not in every processor
    made = meter(tmp_path)
    package.write_text("100000000\n")
    platform.write_text("130000000\n")
    found = made.read()
    assert found is not None and found.joules == pytest.approx(100.0)
    platform.unlink()
    assert made.read() == found


def test_no_energy_without_every_counter(tmp_path: Path) -> None:
    assert meter(tmp_path / "none").read() is None
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    assert meter(tmp_path, packages=False).read() is None
    zone(tmp_path, "intel-rapl:1", "package-1", 5).unlink()
    assert meter(tmp_path).read() is None
    (counter.parent / "name").write_text("psys\n")
    (tmp_path / "intel-rapl:1" / "name").write_text("dram\n")
    assert meter(tmp_path).read() is None


def test_a_counter_that_fails_during_the_run_ends_the_figure_and_not_the_run(
    tmp_path: Path,
) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 5)
    made = meter(tmp_path)
    assert made.read() == Energy(0.0, ("package",))
    counter.unlink()
    assert made.read() is None
    counter.write_text("7\n")
    assert made.read() is None


def test_the_total_of_a_job_says_what_it_counts() -> None:
    both, gpu = Energy(5.0, ("package", "gpu")), Energy(3.0, ("gpu",))
    # Two nodes of two GPUs each; the first rank of a node reads its processors.
    assert total([both, both], [gpu, gpu]) == Energy(16.0, ("package", "gpu"))
    assert total([gpu, gpu], [gpu, gpu]) == Energy(12.0, ("gpu",))
    assert total([Energy(2.0, ("package",))], []) == Energy(2.0, ("package",))


def test_half_a_figure_is_none() -> None:
    package = Energy(2.0, ("package",))
    both, gpu = Energy(5.0, ("package", "gpu")), Energy(3.0, ("gpu",))
    assert total([both, gpu], [gpu, gpu]) is None  # processors of one node only
    assert total([package], [gpu]) is None  # a GPU without a counter
    assert total([both, both], [gpu, None]) is None
    assert total([None, both], []) is None
    assert total([None], []) is None
