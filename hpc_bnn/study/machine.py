"""Where the ranks are: nodes, devices, cores, networks, and the folder that they will write to."""

import fcntl
import os
import re
import shutil
import socket
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hpc_bnn.group import Group
from hpc_bnn.parallel.site import read_site
from hpc_bnn.study.binding import (
    binding_problem,
    cores_beside,
    here,
    is_binding_asked,
    order_finding,
)
from hpc_bnn.study.software import Finding, probe

# Prefixes of variables; what launchers tell their ranks is no setting.
NETWORK = ("NCCL_", "RCCL_", "UCX_", "FI_", "OMPI_MCA_", "PRTE_MCA_", "HOROVOD_", "HDF5_USE")
NO_SETTINGS = ("PREFIXES", "cpu_type", "initial_wdir", "num_procs", "ess", "PRIVATE")
# Open MPI 4 hands the key of a job's transports to its ranks.
SECRET = re.compile(r"SECRET|TOKEN|KEY|PASSW|CREDENTIAL|AUTH|JWT|transports", re.IGNORECASE)
INFINIBAND = Path("/sys/class/infiniband")
INTERFACES = Path("/sys/class/net")
LOW_SPACE_BYTES = 10 << 30


@dataclass(frozen=True)
class Place:
    """Where one rank is.

    Attributes
    ----------
    cores
        Those that the rank may use.
    gpus
        UUIDs of the GPUs that it sees.
    threads
        Of this rank.
    node_cores
        Number of cores of its node.
    beside
        Of each GPU that it sees, the cores beside it.
    """

    host: str
    cores: frozenset[int]
    gpus: frozenset[str]
    threads: int
    node_cores: int
    beside: tuple[frozenset[int], ...] = ()


def machine(all_ranks: Group, folder: Path) -> list[Finding]:
    """Collective: return the findings of all ranks, the same on each."""
    places = all_ranks.gather(all_ranks.together(_place, name="machine"), name="machine")
    nodes = _ranks_of_nodes(places)
    listed = "; ".join(f"{host}: {ranges(ranks)}" for host, ranks in nodes.items())
    return [
        Finding("ranks", f"{len(places)} on {len(nodes)} node(s): {listed}"),
        *order_finding([place.host for place in places]),
        *core_findings(places),
        *binding_findings(places, asked=is_binding_asked(os.environ, read_site())),
        *gpu_findings(places),
        Finding("network", _network()),
        Finding("network settings", _settings() or "none"),
        *here(),
        *folder_findings(folder),
    ]


def _place() -> Place:
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = frozenset(str(torch.cuda.get_device_properties(i).uuid) for i in range(count))
    threads = torch.get_num_threads()
    beside = tuple(map(cores_beside, range(count)))
    node_cores = os.cpu_count() or 1
    return Place(socket.gethostname(), frozenset(cores), gpus, threads, node_cores, beside)


def _ranks_of_nodes(places: Sequence[Place]) -> dict[str, list[int]]:
    nodes: dict[str, list[int]] = defaultdict(list)
    for rank, place in enumerate(places):
        nodes[place.host].append(rank)
    return nodes


def ranges(numbers: Iterable[int]) -> str:
    """Return sorted numbers as text: "0-3,8"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][-1:] = [parts[-1][-1], number]
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def core_findings(places: Sequence[Place]) -> list[Finding]:
    """Say which cores of its node each rank may use: with too few, ranks wait for each other."""
    findings = []
    for host, ranks in _ranks_of_nodes(places).items():
        on_node = [places[rank] for rank in ranks]
        cores = frozenset[int]().union(*(place.cores for place in on_node))
        if not cores:
            continue
        threads = max(place.threads for place in on_node)
        fewest = min(len(place.cores) for place in on_node)
        listed = "; ".join(f"{rank}: {ranges(places[rank].cores)}" for rank in ranks)
        whole = max(place.node_cores for place in on_node)
        findings.append(
            Finding(
                f"cores of {host}",
                f"{listed} of {whole} ({threads} thread(s) a rank)",
                len(cores) >= min(len(ranks), whole) and fewest >= min(threads, whole),
                f"{len(ranks)} ranks share {len(cores)} core(s), the fewest of a rank are "
                f"{fewest}: set --cpus-per-task and export SRUN_CPUS_PER_TASK, or mpirun "
                "--bind-to none, and OMP_NUM_THREADS no larger than a rank's cores",
            )
        )
    return findings


def binding_findings(places: Sequence[Place], *, asked: bool) -> list[Finding]:
    """Say of each node whether its ranks have cores of their own, beside their GPUs.

    asked: whether the job scripts of the site ask for it.
    """
    findings = []
    for host, ranks in _ranks_of_nodes(places).items():
        cores = [places[rank].cores for rank in ranks]
        if len(ranks) == 1 or not all(cores):
            continue
        beside = [_beside_own_gpu(places[rank], node_rank) for node_rank, rank in enumerate(ranks)]
        problem = binding_problem(cores, beside, asked=asked)
        is_free = len(set(cores)) == 1
        text = problem or ("none, every rank may use all" if is_free else "each on its own cores")
        remedy = "srun --cpu-bind=cores with SRUN_CPUS_PER_TASK (--cpu-bind=verbose shows masks)"
        findings.append(Finding(f"binding on {host}", text, not problem, remedy))
    return findings


def _beside_own_gpu(place: Place, node_rank: int) -> frozenset[int]:
    """Return the cores beside the GPU of a rank: its only one, or that of its place."""
    if len(place.beside) == 1:
        return place.beside[0]
    return place.beside[node_rank] if node_rank < len(place.beside) else frozenset()


def gpu_findings(places: Sequence[Place]) -> list[Finding]:
    """Say how many GPUs each rank sees: each needs one of its own."""
    if not any(place.gpus for place in places):
        return []
    findings = []
    for host, ranks in _ranks_of_nodes(places).items():
        different = len(frozenset[str]().union(*(places[rank].gpus for rank in ranks)))
        listed = "; ".join(f"{rank}: sees {len(places[rank].gpus)}" for rank in ranks)
        remedy = "start one rank per GPU, and let each see its own or all of the node"
        text = f"{different} different, {listed}"
        findings.append(Finding(f"devices of {host}", text, different >= len(ranks), remedy))
    return findings


def _network() -> str:
    adapters = [path.name for path in sorted(INFINIBAND.glob("*"))]
    up = []
    for path in sorted(INTERFACES.glob("*")):
        try:
            state = (path / "operstate").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if state in ("up", "unknown") and path.name != "lo":
            up.append(path.name)
    return f"InfiniBand {', '.join(adapters) or 'none'}; interfaces {', '.join(up) or 'none'}"


def _settings() -> str:
    return ", ".join(
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(NETWORK) and not name.endswith(NO_SETTINGS) and not SECRET.search(name)
    )


def folder_findings(folder: Path) -> list[Finding]:
    """Look for free space and locks where runs would be written."""
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

    return [space, probe("run folder", lock, "choose a folder that may be written and has flock")]
