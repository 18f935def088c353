"""Every site's job scripts, against a Slurm whose nodes are like those of the site."""

from pathlib import Path

import pytest
from cluster import Cluster, Unavailable
from configuration import Shape
from site_files import render, shape, slurm_sites

COMMANDS = {"train.sbatch": ["config.yaml"], "evaluate.sbatch": ["run"], "forecast.sbatch": ["run"]}


def start(site: str, folder: Path) -> Cluster:
    cluster = Cluster(folder, Shape.of_site(site, nodes=2))
    try:
        cluster.start()
    except Unavailable as reason:
        pytest.skip(f"a private Slurm: {reason}")
    return cluster


@pytest.mark.parametrize("site", slurm_sites())
def test_accepted(site: str, tmp_path: Path) -> None:
    """Slurm checks partitions, nodes, cores, GPUs, features and times, and submits nothing."""
    scripts = sorted((render(site, tmp_path) / "jobscripts").glob("*.sbatch"))
    (tmp_path / "slurm").mkdir()
    cluster = start(site, tmp_path / "slurm")
    try:
        for script in scripts:
            for more in (["--nodes=1"], ["--nodes=2"]):
                words = COMMANDS.get(script.name, [])
                tried = cluster.attempt("sbatch", "--test-only", *more, script, *words)
                assert tried.returncode == 0, f"{script.name} {more}: {tried.stderr}"
        gpus, whole = int(shape(site)["gpus"]) + 1, (scripts[-1], "config.yaml")
        too_many_gpus = [f"--gres=gpu:{gpus}", f"--gpus-per-node={gpus}"]
        for wrong in (["--nodes=3"], too_many_gpus, ["--partition=absent"]):
            refused = cluster.attempt("sbatch", "--test-only", *wrong, *whole)
            assert refused.returncode != 0, wrong
        if site == "lumi_g":  # 8 x 8 = 64 cores, of which a job gets 56
            refused = cluster.attempt("sbatch", "--test-only", "--cpus-per-task=8", *whole)
            assert "node configuration is not available" in refused.stderr, refused.stderr
    finally:
        cluster.stop()
