"""What a fault costs a run on a real Slurm of two nodes on this machine.

    python tests/bench/faults.py             20 faults, some 20 minutes; 1: one was not as promised
    python tests/bench/faults.py --times 3   one of each kind

A run of 2 nodes x 2 ranks meets one fault at a random step: a rank is killed, a node is set down,
or a node is frozen with all of its ranks (SIGSTOP of its slurmd and everything below it). The table
says how many steps were lost, how long it took until the run made a new step in the same
allocation, and whether the final parameters are those of the undisturbed run. Most of the time is
the start of Python on all ranks, so the machine must be quiet: the table shows its load.

It needs what tests/slurm does: slurmctld, slurmd, srun, munged, PMIx (Debian: slurm-wlm munge
libpmix-dev), and namespaces.

The node is never the one that runs the batch script: where that fails, Slurm itself starts the job
again.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "slurm"), str(TESTS / "sites")]

from cluster import Cluster  # noqa: E402
from configuration import Shape  # noqa: E402
from jobs import Job, submit  # noqa: E402
from node_faults import OPTIONS, Fault, freeze, kill_rank, set_down  # noqa: E402
from site_files import render  # noqa: E402
from tiny_train import SETTINGS, TWO_BY_TWO, restarts, summary  # noqa: E402

SITE = "generic_slurm"
STEPS = 30
FIRST, LAST = 4, 20  # steps at which a fault may come
WAIT_S = 400.0
SOON_S = 30.0  # promised on a machine that does nothing else
STEPS_OF_A_RUN = f"train.steps={STEPS}"


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    fault: str
    step: int
    row: dict[str, Any]
    seconds: float
    difference: float
    requeues: int
    load: float

    def line(self) -> str:
        old, new = (f"{g['sample_ranks']} x {g['data_ranks']}" for g in self.grids)
        return (
            f"{self.fault:22s} {self.step:4d} {self.row['lost_steps']:5d}   {old} -> {new}   "
            f"{self.seconds:6.1f} {self.row['down_s']:6.1f} {self.row['restart_time_s']:6.1f}   "
            f"{self.difference:8.1e}  {self.requeues:8d} {self.load:4.1f}"
        )

    @property
    def grids(self) -> tuple[dict[str, int], dict[str, int]]:
        return self.row["old_grid"], self.row["grid"]

    @property
    def is_good(self) -> bool:
        """At most a step lost, in the same allocation, with the answer of the undisturbed run: bit
        for bit where the grid stays.
        """
        same = self.grids[0] == self.grids[1]
        return (
            self.row["lost_steps"] <= 1
            and self.requeues == 0
            and self.difference <= (0.0 if same else 1e-8)
        )


HEAD = """\
                                           seconds until a new step from
fault                  step  lost   grid             fault  script  start   checksum  requeues load
                                                            saw it          differs\
"""


def made(run: Path) -> int:
    """Return how many steps a run has on file."""
    path = run / "metrics.jsonl"
    return path.read_text(encoding="utf-8").count('"loss"') if path.exists() else 0


def wait_for(is_true: Callable[[], bool], job: Job, what: str) -> None:
    limit = time.monotonic() + WAIT_S
    while not is_true():
        if time.monotonic() > limit:
            raise AssertionError(f"{what}\n{job.report()}")
        time.sleep(0.05)


def undisturbed(cluster: Cluster, script: Path, config: Path, folder: Path) -> dict[str, Any]:
    """Return the summary of a run that meets no fault."""
    folder.mkdir()
    words = (script, config, STEPS_OF_A_RUN, *OPTIONS, "--run", folder / "run")
    job = submit(cluster, folder, *TWO_BY_TWO, *words)
    ended = job.ended(WAIT_S)
    assert ended["ExitCode"] == "0:0", job.report()
    return summary(folder / "run")


def meet(
    cluster: Cluster,
    script: Path,
    config: Path,
    folder: Path,
    fault: str,
    act: Fault,
    step: int,
    expected: dict[str, Any],
) -> Outcome:
    """Train, have a fault after ``step`` steps, and return what became of it."""
    folder.mkdir()
    run = folder / "run"
    words = (script, config, STEPS_OF_A_RUN, *OPTIONS, "--run", run)
    job = submit(cluster, folder, "--no-kill", *TWO_BY_TWO, *words)
    wait_for(lambda: made(run) >= step, job, f"step {step} did not come")
    began = time.monotonic()
    undo = act(cluster, job)
    try:
        wait_for(lambda: (run / "restarts.jsonl").exists(), job, "no restart")
        seconds = time.monotonic() - began
        ended = job.ended(WAIT_S)
    finally:
        undo()
    assert ended["ExitCode"] == "0:0", job.report()
    found = summary(run)
    sums = [s["parameter_checksum"]["sum_of_squares"] for s in (found, expected)]
    difference = abs(sums[0] - sums[1]) / abs(sums[1])
    row = restarts(run)[0]
    requeues, load = int(ended["Restarts"]), os.getloadavg()[0]
    return Outcome(fault, step, row, seconds, difference, requeues, load)


def faults(times: int, seed: int) -> list[tuple[str, Fault, int]]:
    """Return so many faults at random steps, each kind as often as the others."""
    draw = random.Random(seed)
    drawn: list[tuple[str, Fault, int]] = []
    for number in range(times):
        step, rank = draw.randint(FIRST, LAST), draw.randrange(4)
        drawn.append(
            [
                (f"rank {rank} killed", kill_rank(rank), step),
                ("node set down", set_down, step),
                ("node frozen", freeze, step),
            ][number % 3]
        )
    return drawn


def main() -> int:
    """Print the table; 1 where a run lost more than a step, its allocation, its answer or time."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--times", type=int, default=20, help="faults, of each kind as many")
    options.add_argument("--seed", type=int, default=1, help="of the steps and the killed ranks")
    chosen = options.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as place:
        folder = Path(place)
        (folder / "slurm").mkdir()
        script = render(SITE, folder / "site") / "jobscripts" / "train.sbatch"
        config = folder / "tiny.yaml"
        config.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
        cluster = Cluster(folder / "slurm", Shape.of_site(SITE, nodes=2))
        cluster.start()
        try:
            expected = undisturbed(cluster, script, config, folder / "whole")
            print(f"undisturbed: {json.dumps(expected['parameter_checksum'])}\n{HEAD}", flush=True)
            for number, (name, act, step) in enumerate(faults(chosen.times, chosen.seed)):
                place_of_run = folder / f"run-{number}"
                found = meet(cluster, script, config, place_of_run, name, act, step, expected)
                print(found.line(), "" if found.is_good else "BAD", flush=True)
                outcomes.append(found)
        finally:
            cluster.stop()
    good = [found for found in outcomes if found.is_good]
    soon = [found for found in good if found.seconds <= SOON_S]
    slowest = max(found.seconds for found in outcomes)
    print(
        f"{len(good)} of {chosen.times} lost at most a step and neither allocation nor answer; "
        f"{len(soon)} of these went on within {SOON_S:.0f} s, the slowest after {slowest:.1f} s"
    )
    return int(len(soon) < chosen.times)


if __name__ == "__main__":
    sys.exit(main())
