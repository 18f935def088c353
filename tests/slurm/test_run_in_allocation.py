"""``hpc-bnn run`` in a job of Slurm: srun starts the ranks, and ends them in good order."""

import json
import sys
from pathlib import Path

from cluster import Cluster
from jobs import Job, submit
from tiny_train import TWO_BY_TWO

# The command is the script itself: what Slurm sends to the script it gets.
WRAP = f"exec {sys.executable} -m hpc_bnn -v run train"


def started(cluster: Cluster, folder: Path, *words: str | Path) -> Job:
    wrap = f"--wrap={' '.join(map(str, [WRAP, *words, '--run', folder / 'run']))}"
    return submit(cluster, folder, *TWO_BY_TWO, wrap)


def test_as_many_ranks_as_the_job_has_until_they_are_asked_to_stop(
    cluster: Cluster, config: Path, tmp_path: Path
) -> None:
    job = started(cluster, tmp_path, config, "train.steps=100000")
    job.said("step 2 of")
    assert sorted(job.ranks()) == [0, 1, 2, 3]
    cluster.run("scancel", "--batch", "--signal=INT", job.number)
    assert job.ended()["ExitCode"] == "85:0", job.report()
    assert "hpc-bnn run: srun --mpi=pmix --kill-on-bad-exit=1 sh -c" in job.text
    assert job.text.count("hpc-bnn train: signal SIGUSR2: stopped after step") == 1, job.report()
    assert "srun: error" not in job.text
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*.pt"))) == 1
    assert not list(tmp_path.glob(".hpc-bnn-run-*"))


def test_to_the_end(cluster: Cluster, config: Path, tmp_path: Path) -> None:
    job = started(cluster, tmp_path, config, "train.steps=3")
    assert job.ended()["ExitCode"] == "0:0", job.report()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["steps"], summary["grid"]["nodes"]) == (3, 2)
