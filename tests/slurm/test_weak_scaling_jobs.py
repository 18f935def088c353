"""scaling.sh: two sizes of one study, submitted at once, run one after the other."""

from pathlib import Path

from cluster import Cluster
from jobs import ENVIRONMENT, Job
from tiny_train import summary


def test_two_sizes(cluster: Cluster, scripts: Path, config: Path, tmp_path: Path) -> None:
    options = ("--modes", "sample", "--nodes", "1 2", "--ranks-per-node", "1")
    done = cluster.attempt(
        scripts / "scaling.sh", *options, "--runs", tmp_path / "runs", config, "train.steps=5",
        "--", f"--chdir={tmp_path}", "--output=job-%j.out", given=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = [Job(cluster, number, tmp_path / f"job-{number}.out") for number in done.stdout.split()]
    assert len(jobs) == 2, done.stdout
    for job in jobs:
        assert job.ended()["ExitCode"] == "0:0", job.report()
    first, second = (job.facts() for job in jobs)
    assert first["EndTime"] <= second["StartTime"], "two at once disturb each other"
    for ranks in (1, 2):
        found = summary(tmp_path / "runs" / f"sample-{ranks}x1")
        assert found["grid"] == {"sample_ranks": ranks, "data_ranks": 1, "nodes": ranks}
        assert found["samples"] == ranks
