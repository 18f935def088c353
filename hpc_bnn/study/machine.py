"""Where the ranks are: nodes, devices, cores, networks, and the folder that they will write to."""

import fcntl
import os
import shutil
import socket
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from hpc_bnn.group import Group
from hpc_bnn.study.finding import Finding, told

NETWORK_SETTINGS = (
    "NCCL_",
    "RCCL_",
    "UCX_",
    "FI_",
    "OMPI_MCA_",
    "PRTE_MCA_",
    "HOROVOD_",
    "HDF5_USE",
)
# What launchers tell their ranks is no setting.
NO_SETTINGS = ("PREFIXES", "cpu_type", "initial_wdir", "num_procs", "ess", "PRIVATE")
INFINIBAND = Path("/sys/class/infiniband")
INTERFACES = Path("/sys/class/net")
LOW_SPACE_BYTES = 10 << 30


def machine(all_ranks: Group, folder: Path) -> list[Finding]:
    """Collective: return the findings of all ranks, the same on each."""
    ranks = all_ranks.gather(all_ranks.together(_here, name="machine"), name="machine")
    nodes: dict[str, list[int]] = defaultdict(list)
    for rank, (host, *_) in enumerate(ranks):
        nodes[host].append(rank)
    return [
        Finding(
            "ranks",
            f"{len(ranks)} on {len(nodes)} node(s): "
            + "; ".join(f"{host}: {ranges(own)}" for host, own in nodes.items()),
        ),
        *_cores(nodes, [(own, threads, there) for _, own, _, threads, there in ranks]),
        *_devices(nodes, [own for _, _, own, _, _ in ranks]),
        Finding("network", _network()),
        Finding("network settings", _settings() or "none"),
        *_folder(folder),
    ]


def _here() -> tuple[str, list[int], list[str], int, int]:
    """Return host, cores, UUIDs of GPUs, threads of this rank, and the number of cores there."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    devices = [str(torch.cuda.get_device_properties(i).uuid) for i in range(_device_count())]
    return socket.gethostname(), cores, devices, torch.get_num_threads(), os.cpu_count() or 1


def ranges(numbers: Iterable[int]) -> str:
    """Return sorted numbers as text: "0-3,8"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][-1:] = [parts[-1][-1], number]
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def _cores(nodes: dict[str, list[int]], ranks: list[tuple[list[int], int, int]]) -> list[Finding]:
    """Which cores each rank may use, of those of its node; ranks that were given too few stand in
    each other's way.
    """
    findings = []
    for host, own in nodes.items():
        if not any(ranks[rank][0] for rank in own):
            continue
        together = set().union(*(ranks[rank][0] for rank in own))
        threads = max(ranks[rank][1] for rank in own)
        fewest = min(len(ranks[rank][0]) for rank in own)
        shown = "; ".join(f"{rank}: {ranges(ranks[rank][0])}" for rank in own)
        there = max(ranks[rank][2] for rank in own)
        enough = len(together) >= min(len(own), there) and fewest >= min(threads, there)
        findings.append(
            Finding(
                f"cores of {host}",
                f"{shown} of {there} ({threads} thread(s) a rank)",
                enough,
                f"{len(own)} ranks share {len(together)} core(s), the fewest of a rank are "
                f"{fewest}: set --cpus-per-task and export SRUN_CPUS_PER_TASK, or mpirun "
                "--bind-to none, and OMP_NUM_THREADS no larger than a rank's cores",
            )
        )
    return findings


def _devices(nodes: dict[str, list[int]], ranks: list[list[str]]) -> list[Finding]:
    """How many GPUs each rank sees; a node with more ranks than GPUs cannot give each its own."""
    if not any(ranks):
        return []
    findings = []
    for host, own in nodes.items():
        different = set().union(*(ranks[rank] for rank in own))
        shown = "; ".join(f"{rank}: sees {len(ranks[rank])}" for rank in own)
        findings.append(
            Finding(
                f"devices of {host}",
                f"{len(different)} different, {shown}",
                len(different) >= len(own),
                "start one rank per GPU, and let each see its own or all of the node",
            )
        )
    return findings


def _device_count() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _network() -> str:
    found = [path.name for path in sorted(INFINIBAND.glob("*"))] if INFINIBAND.is_dir() else []
    up = []
    for path in sorted(INTERFACES.glob("*")) if INTERFACES.is_dir() else []:
        try:
            state = (path / "operstate").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if state in ("up", "unknown") and path.name != "lo":
            up.append(path.name)
    return f"InfiniBand {', '.join(found) or 'none'}; interfaces {', '.join(up) or 'none'}"


def _settings() -> str:
    return ", ".join(
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(NETWORK_SETTINGS) and not name.endswith(NO_SETTINGS)
    )


def _folder(folder: Path) -> list[Finding]:
    """Free space and locks where runs would be written."""
    if not folder.is_dir():
        remedy = "make it, or name another with --run"
        return [Finding("run folder", f"{folder}: no such folder", False, remedy)]
    free = shutil.disk_usage(folder).free
    space = Finding(
        "space",
        f"{folder.resolve()}: {free / 1e9:.0f} GB free",
        free >= LOW_SPACE_BYTES,
        "checkpoints may not fit: free space, or write somewhere else with --run",
    )

    def lock() -> str:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return "writable, with locks"

    return [space, told("run folder", lock, "choose a folder that may be written and has flock")]
