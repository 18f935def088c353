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


def mksquashfs() -> str:
    """Return the program that makes such files; skip the test without."""
    program = shutil.which("mksquashfs", path="/usr/bin:/usr/sbin:/sbin")
    if program is None or not shutil.which("unsquashfs"):
        pytest.skip("no squashfs-tools on this machine")
    return program


@pytest.fixture(scope="module")
def from_one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Job scripts beside a file with the environment."""
    maker = mksquashfs()
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
    subprocess.run([maker, staged, site / "env.sqfs", *quick], check=True)
    shutil.rmtree(staged)
    (site / "env").unlink()  # nothing can run from there
    return site / "jobscripts"


def test_two_nodes_train_from_one_file(
    cluster: Cluster,
    from_one_file: Path,
    config: Path,
    tmp_path: Path,
    uninterrupted: Uninterrupted,
) -> None:
    run = tmp_path / "run"
    given = {"HPC_BNN_NODE_LOCAL": NODE_LOCAL, "PYTHONPATH": ""}
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
    assert "hpc_bnn-env" not in left_on(cluster)


@pytest.mark.parametrize("way", ["unpack", "fuse"])
def test_each_node_has_the_file_for_itself(way: str, cluster: Cluster, tmp_path: Path) -> None:
    """Unpacked or mounted: a stand-in for Python says where it lies, and is gone afterwards."""
    if way == "fuse" and not (shutil.which("squashfuse") and Path("/dev/fuse").exists()):
        pytest.skip("no squashfuse, or no /dev/fuse")
    site, python = render(SITE, tmp_path / "site", ENV="squashfs"), tmp_path / "file/env/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$(hostname) $0 $*"\n')
    python.chmod(0o755)
    make = [mksquashfs(), tmp_path / "file", site / "env.sqfs", "-quiet", "-no-progress"]
    subprocess.run(make, check=True)
    given = {"HPC_BNN_NODE_LOCAL": NODE_LOCAL, "HPC_BNN_SQUASHFS": way}
    job = submit(cluster, tmp_path, *TWO_BY_TWO, site / "jobscripts/doctor.sbatch", given=given)
    assert job.ended()["ExitCode"] == "0:0", job.report()
    said = [line.split() for line in job.text.splitlines() if line.endswith("hpc_bnn doctor")]
    assert sorted(words[0] for words in said) == ["n1", "n1", "n2", "n2"], job.report()
    start = f"{NODE_LOCAL}/hpc_bnn-env-{job.number}-"
    assert all(words[1].startswith(start) for words in said)
    assert all(words[1].endswith("/root/env/bin/python") for words in said)
    assert "hpc_bnn-env" not in left_on(cluster)


def left_on(cluster: Cluster) -> str:
    """Return the files in memory and the mounts of two nodes."""
    look = f"ls {NODE_LOCAL}; mount"
    return cluster.run("srun", "--nodes=2", "--ntasks=2", "--mpi=none", "sh", "-c", look)


def test_a_way_that_does_not_exist(cluster: Cluster, from_one_file: Path, tmp_path: Path) -> None:
    for way, said in (("copy", "must be unpack, fuse or site"), ("site", "has no such command")):
        given = {"HPC_BNN_SQUASHFS": way}
        job = submit(cluster, tmp_path, from_one_file / "doctor.sbatch", given=given)
        assert job.ended()["ExitCode"] == "2:0", job.report()
        assert said in job.text
