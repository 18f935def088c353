"""What ``hpc-bnn run`` reads of each site; the site of a machine with GPUs and no batch system."""

from pathlib import Path

import pytest
from site_files import WITHOUT_SLURM, render, shape, site_names

from hpc_bnn.parallel.site import Site, read_site


@pytest.mark.parametrize("site", site_names())
def test_every_site_says_how_ranks_start(site: str, rendered: dict[str, Path]) -> None:
    found = read_site(rendered[site] / "env")
    assert (found.name, found.launcher == "mpirun") == (site, site in WITHOUT_SLURM)
    assert found.environment["HDF5_USE_FILE_LOCKING"] == "FALSE"
    assert not any("@" in word or ";" in word for word in (*found.flags, *found.binding))


def test_words_of_some_sites(rendered: dict[str, Path]) -> None:
    local = read_site(rendered["local"] / "env")
    assert local.flags == ("--oversubscribe", "--bind-to", "none")
    assert local.environment["PRTE_ALLOW_RUN_AS_ROOT"] == "1"
    generic = read_site(rendered["generic_slurm"] / "env")
    assert (generic.flags, generic.binding) == (("--mpi=pmix",), ("--cpu-bind=cores",))
    frontier = read_site(rendered["frontier"] / "env")
    assert frontier.binding == ("--gpus-per-task=1", "--gpu-bind=closest")
    assert frontier.environment["NCCL_SOCKET_IFNAME"] == "hsn0,hsn1,hsn2,hsn3"
    (lumi,) = read_site(rendered["lumi_g"] / "env").binding
    assert lumi.startswith("--cpu-bind=mask_cpu:7e000000000000,7e00000000000000,7e0000,")


def test_a_workstation_is_a_local_machine_with_gpus(
    rendered: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workstation = read_site(rendered["workstation"] / "env")
    local = read_site(rendered["local"] / "env")
    expected = Site("workstation", "mpirun", local.flags, local.binding, local.environment)
    assert workstation == expected
    assert shape("local")["accelerator"] == "cpu"
    if Path("/opt/rocm").exists():
        pytest.skip("ROCm is installed here")
    shape.cache_clear()
    assert shape("workstation")["accelerator"] == "cuda"
    if not Path("/proc/driver/nvidia").exists():
        monkeypatch.setenv("ROCM_PATH", str(tmp_path))
        shape.cache_clear()
        assert shape("workstation")["accelerator"] == "rocm"
        render("workstation", tmp_path / "site")
    shape.cache_clear()
