"""Faults of a run on a private Slurm: a rank is killed, a node is set down, a node freezes.

The node is never the one that runs the batch script: without that there is nobody to go on.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster import START_S, Cluster
from jobs import Job

BACK_S = 400.0
# A run of which every step takes longer than a snapshot, and only snapshots help.
OPTIONS = (
    "train.snapshot_every=1",
    "train.checkpoint_every=1000",
    "train.stall_timeout=5",
    "train.precision=float64",
    "posterior.samples=96",
    "model.hidden=[64,64]",
)

# Does something to a job, and returns what undoes it.
Fault = Callable[[Cluster, Job], Callable[[], None]]


def below_node(cluster: Cluster, node: str) -> list[int]:
    """Return all processes of a node of our cluster, its slurmd first: those with its host name.

    The slurmd of a node that was started a moment ago is waited for.
    """
    limit = time.monotonic() + START_S
    while not (found := _below(cluster, node)):
        if time.monotonic() > limit:
            raise RuntimeError(f"no slurmd of {node} in {START_S:g} s")
        time.sleep(0.05)
    return found


def _below(cluster: Cluster, node: str) -> list[int]:
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
        if words[0] == "slurmd" and conf in words and words[-2] == node:
            slurmd = int(entry.name)
    here = [pid for pid, at in places.items() if at == places.get(slurmd) and pid != slurmd]
    return [slurmd, *here] if slurmd else []


def kill_rank(rank: int) -> Fault:
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
    for pid in below_node(cluster, node):
        os.kill(pid, signal.SIGSTOP)

    def undo() -> None:
        thaw(cluster, node)
        resume(cluster, node)

    return undo


def thaw(cluster: Cluster, node: str) -> None:
    """Let everything on a node go on."""
    for pid in below_node(cluster, node):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def resume(cluster: Cluster, node: str) -> None:
    """Bring a node back and wait until it is idle."""
    limit = time.monotonic() + BACK_S
    while (state := state_of(cluster, node)) != "idle":
        if time.monotonic() > limit:
            raise RuntimeError(f"{node} does not come back: {state}")
        if "down" in state or "drain" in state:
            cluster.attempt("scontrol", "update", f"nodename={node}", "state=resume")
        time.sleep(0.5)


def state_of(cluster: Cluster, node: str) -> str:
    """Return what Slurm says of a node: idle, down*, ..."""
    return cluster.run("sinfo", "-h", "-N", "-n", node, "-o", "%T").split()[0]


def hand_back(cluster: Cluster) -> None:
    """End all jobs and bring all nodes back, whatever a test has left of them."""
    cluster.run("scancel", "--quiet", "--me")
    for node in cluster.nodes:
        if state_of(cluster, node) != "idle":
            thaw(cluster, node)
            resume(cluster, node)
