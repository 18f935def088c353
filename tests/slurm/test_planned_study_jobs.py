"""A scaling study on Slurm: plan, scaling.sh --plan, collect; its jobs run one after the other."""

import csv
from pathlib import Path

import pytest
import yaml
from cluster import Cluster
from jobs import ENVIRONMENT, Job
from tiny_train import SETTINGS

from hpc_bnn.cli import program as cli

STUDY = {
    "config": "tiny.yaml",
    "kinds": ["proportional_samples"],
    "modes": ["sample", "data"],
    "nodes": [1, 2],
    "ranks_per_node": 1,
    "repeats": 1,
    "steps": 8,
    "warmup_steps": 2,
}


def test_plan_submit_collect(
    cluster: Cluster, scripts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    runs = tmp_path / "runs"
    assert cli.main(["scaling", "plan", str(tmp_path / "study.yaml"), "--runs", str(runs)]) == 0

    def submitted() -> list[Job]:
        done = cluster.attempt(
            scripts / "scaling.sh", "--plan", runs, "--", f"--chdir={tmp_path}",
            "--output=job-%j.out", given=ENVIRONMENT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        numbers = done.stdout.split()
        return [Job(cluster, number, tmp_path / f"job-{number}.out") for number in numbers]

    jobs = submitted()
    assert len(jobs) == 3
    for job in jobs:
        assert job.ended()["ExitCode"] == "0:0", job.report()
    times = sorted((job.facts()["StartTime"], job.facts()["EndTime"]) for job in jobs)
    assert all(times[i][1] <= times[i + 1][0] for i in range(2)), "two at once disturb each other"
    assert submitted() == []  # all are finished

    # Here every node is this host.
    status = cli.main(["scaling", "collect", str(runs)])
    assert status == 0, capsys.readouterr()
    with (runs / "scaling.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["mode"], row["nodes"], row["ranks"], row["samples"]) for row in rows] == [
        ("local", "1", "1", "4"), ("sample", "2", "2", "8"), ("data", "2", "2", "8")
    ]  # fmt: skip
    assert all(float(row["efficiency"]) > 0 and "few_repeats" in row["flags"] for row in rows)
