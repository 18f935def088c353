"""What a fault costs a run on a real Slurm of two nodes on this machine: ``faults.py --times N``.

A run of 2 nodes x 2 ranks meets one fault at a random step: a rank is killed, a node is set down,
or a node is frozen with all of its ranks (SIGSTOP of its slurmd and everything below it). The table
says how many steps were lost, how long it took until the run made a new step in the same
allocation, and whether the final parameters are those of the undisturbed run.

The node is never the one that runs the batch script: where that fails, Slurm itself starts the job
again.
"""

import argparse
import json
import os
import random
import signal
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
from site_files import render  # noqa: E402
from tiny_train import SETTINGS, TWO_BY_TWO, restarts, summary  # noqa: E402

SITE = "generic_slurm"
STEPS = 30
FIRST, LAST = 4, 20  # steps at which a fault may come
WAIT_S = 400.0
OPTIONS = (
    f"train.steps={STEPS}",
    "train.snapshot_every=1",
    "train.checkpoint_every=1000",  # so that only snapshots help
    "train.stall_timeout=5",
    "train.precision=float64",
    "posterior.samples=24",
    "model.hidden=[64,64]",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    fault: str
    step: int
    row: dict[str, Any]
    seconds: float
    difference: float
    requeues: int

    def line(self) -> str:
        old, new = (f"{g['sample_ranks']} x {g['data_ranks']}" for g in self.grids)
        return (
            f"{self.fault:22s} {self.step:4d} {self.row['lost_steps']:5d}   {old} -> {new}   "
            f"{self.seconds:6.1f} {self.row['down_s']:6.1f} {self.row['restart_time_s']:6.1f}   "
            f"{self.difference:8.1e}  {self.requeues}"
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
fault                  step  lost   grid             fault  script  start   checksum  requeues
                                                            saw it          differs\
"""


def below_node(cluster: Cluster, node: str) -> list[int]:
    """Return all processes of a node of our cluster, its slurmd first: those with its host name."""
    conf = cluster.environment["SLURM_CONF"]
    places: dict[int, str] = {}
    slurmd = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            places[int(entry.name)] = str((entry / "ns" / "uts").readlink())
        except OSError:  # it has just ended
            continue
        if words[0] == "slurmd" and conf in words and words[-2:-1] == [node]:
            slurmd = int(entry.name)
    assert slurmd, f"no slurmd of {node}"
    return [slurmd, *(pid for pid, at in places.items() if at == places[slurmd] and pid != slurmd)]


def kill_rank(rank: int) -> Callable[[Cluster, Job], Callable[[], None]]:
    """Return a fault: SIGKILL of one rank."""

    def act(cluster: Cluster, job: Job) -> Callable[[], None]:
        job.signal_rank(rank, signal.SIGKILL)
        return lambda: None

    return act


def lost_node(cluster: Cluster, job: Job) -> str:
    """Return the node that does not run the batch script."""
    batch = job.facts()["BatchHost"]
    return next(name for name in cluster.nodes[:2] if name != batch)


def set_down(cluster: Cluster, job: Job) -> Callable[[], None]:
    """Set a node down; return what brings it back."""
    node = lost_node(cluster, job)
    cluster.run("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")
    return lambda: resume(cluster, node)


def freeze(cluster: Cluster, job: Job) -> Callable[[], None]:
    """Stop everything on a node; return what lets it go on."""
    node = lost_node(cluster, job)
    pids = below_node(cluster, node)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def thaw() -> None:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        resume(cluster, node)

    return thaw


def resume(cluster: Cluster, node: str) -> None:
    """Bring a node back and wait until it is idle."""
    limit = time.monotonic() + WAIT_S
    while time.monotonic() < limit:
        state = cluster.attempt("sinfo", "-h", "-N", "-n", node, "-o", "%T").stdout.split()
        if state[:1] == ["idle"]:
            return
        cluster.attempt("scontrol", "update", f"nodename={node}", "state=resume")
        time.sleep(1.0)
    raise RuntimeError(f"{node} does not come back")


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
    words = (script, config, *OPTIONS, "--run", folder / "run")
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
    act: Callable[[Cluster, Job], Callable[[], None]],
    step: int,
    expected: dict[str, Any],
) -> Outcome:
    """Train, have a fault after ``step`` steps, and return what became of it."""
    folder.mkdir()
    run = folder / "run"
    job = submit(cluster, folder, *TWO_BY_TWO, script, config, *OPTIONS, "--run", run)
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
    return Outcome(fault, step, row, seconds, difference, int(ended["Restarts"]))


def faults(times: int, seed: int) -> list[tuple[str, Callable[..., Any], int]]:
    """Return so many faults at random steps, each kind as often as the others."""
    draw = random.Random(seed)
    drawn: list[tuple[str, Callable[..., Any], int]] = []
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
    """Print the table; 1 where a run lost more than a step, its allocation or its answer."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--times", type=int, default=20)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    bad = 0
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
                bad += not found.is_good
        finally:
            cluster.stop()
    print(f"{chosen.times - bad} of {chosen.times} as promised")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
