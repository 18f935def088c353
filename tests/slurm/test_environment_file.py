"""ENV=squashfs: two nodes that have the environment as one file train as with a folder of packages.

The file is made as the build makes it, of this Python's environment. What the ranks have loaded
lies on their own node, and nothing is left there when the job is over.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster
from jobs import submit
from site_files import ENVIRONMENT, SOURCE, render
from tiny_train import TWO_BY_TWO, Uninterrupted, summary

SITE = "generic_slurm"
# Large, and not needed by this training.
LEFT_OUT = (
    *("triton", "mypy", "sklearn", "scipy*", "sympy", "pandas", "matplotlib", "fontTools"),
    *("tensorboard*", "eck*", "eccodes*", "grpc", "numcodecs", "networkx", "xarray", "zarr"),
    *("*__mypyc*", "torch/include"),
)
NODE_LOCAL = "/dev/shm"  # each node of the test has one of its own


@pytest.fixture(scope="module")
def from_one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Job scripts beside a file with the environment."""
    mksquashfs = shutil.which("mksquashfs", path="/usr/bin:/usr/sbin:/sbin")
    if mksquashfs is None or not shutil.which("unsquashfs"):
        pytest.skip("no squashfs-tools on this machine")
    folder = tmp_path_factory.mktemp("environment")
    site, staged = render(SITE, folder / "site", ENV="squashfs"), folder / "staged"
    staged.mkdir()
    make = [SOURCE / "modules/cmake/relocatable.py", ENVIRONMENT, staged / "env", SOURCE, "--link"]
    subprocess.run([sys.executable, *make], check=True)
    shutil.copy(site / "hpc_bnn_site.json", staged)
    (packages,) = staged.glob("env/lib/python*/site-packages")
    for pattern in LEFT_OUT:
        for path in packages.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    quick = ["-comp", "lz4", "-no-progress", "-quiet", "-all-root", "-no-xattrs"]
    subprocess.run([mksquashfs, staged, site / "env.sqfs", *quick], check=True)
    shutil.rmtree(staged)
    (site / "env").unlink()  # nothing can run from there
    return site / "jobscripts"


@pytest.mark.parametrize("way", ["unpack", "fuse"])
def test_two_nodes_train_from_one_file(
    way: str,
    cluster: Cluster,
    from_one_file: Path,
    config: Path,
    tmp_path: Path,
    uninterrupted: Uninterrupted,
) -> None:
    if way == "fuse" and not (shutil.which("squashfuse") and Path("/dev/fuse").exists()):
        pytest.skip("no squashfuse, or no /dev/fuse")
    run = tmp_path / "run"
    given = {"HPC_BNN_NODE_LOCAL": NODE_LOCAL, "HPC_BNN_SQUASHFS": way, "PYTHONPATH": ""}
    script: list[str | Path] = [from_one_file / "train.sbatch", config, "--run", run]
    job = submit(cluster, tmp_path, *TWO_BY_TWO, *script, given=given)
    job.said("step 1 of")
    ranks = job.ranks()
    assert sorted(ranks) == [0, 1, 2, 3]
    for process in ranks.values():
        loaded = Path(f"/proc/{process}/maps").read_text()
        libraries = [line for line in loaded.splitlines() if "/site-packages/" in line]
        assert libraries
        assert all(f"{NODE_LOCAL}/hpc_bnn-env-{job.number}-" in line for line in libraries)
    ended = job.ended()
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), job.report()
    expected = uninterrupted(TWO_BY_TWO)
    for name in ("parameter_checksum", "final_loss", "grid", "steps"):
        assert summary(run)[name] == expected[name], name
    left = cluster.run("srun", "--nodes=2", "--mpi=none", "sh", "-c", f"ls {NODE_LOCAL}; mount")
    assert "hpc_bnn-env" not in left


def test_a_way_that_does_not_exist(cluster: Cluster, from_one_file: Path, tmp_path: Path) -> None:
    for way, said in (("copy", "must be unpack, fuse or site"), ("site", "has no such command")):
        given = {"HPC_BNN_SQUASHFS": way}
        job = submit(cluster, tmp_path, from_one_file / "doctor.sbatch", given=given)
        assert job.ended()["ExitCode"] == "2:0", job.report()
        assert said in job.text
