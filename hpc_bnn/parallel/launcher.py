"""What a launcher says to this process: the number of ranks, whether it is one of them, and its
place on the node.

A launcher may run inside another one's step, whose words its ranks inherit: ``mpirun`` in
``srun --pty bash``, ``srun`` in a script that ``mpirun`` started.
"""

import os
import socket
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what starts ranks needs no torch
    from hpc_bnn.group import Group

# What launchers say about the number of ranks they started in this step.
SLURM_SIZES = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
LAUNCHER_SIZES = (*SLURM_SIZES, *MPI_SIZES)
# What they say about the place of a rank on its node.
NODE_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# What the ranks of one start have in common.
STEP = ("PMIX_NAMESPACE", "PMI_JOBID", "SLURM_JOB_ID", "SLURM_STEP_ID")
PROCESS = "HPC_BNN_RANK_PROCESS"
# Set by tests, to start several ranks where there is one GPU.
SHARED_GPU = "HPC_BNN_SHARED_GPU"


class LaunchError(RuntimeError):
    """Launcher and MPI, or ranks and devices, do not fit; the message says what to do."""


def launched_size(environment: Mapping[str, str]) -> tuple[str, int]:
    """Return the innermost launcher's variable and number of ranks, ("", 1) where none speaks.

    A batch script that starts Python without srun sees the job's SLURM_NTASKS too, but is no step
    of that many ranks.
    """
    in_batch_script = "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment
    before = _environment_of(environment.get("SLURM_TASK_PID", ""))
    # What a task of Slurm began with is Slurm's own word, or that of a launcher around it.
    inner = [name for name in MPI_SIZES if before.get(name) != environment.get(name)]
    slurm = SLURM_SIZES[:1] if in_batch_script else SLURM_SIZES
    for name in (*inner, *slurm):
        if environment.get(name, "").isdigit():
            return name, int(environment[name])
    return "", 1


def record_process(environment: MutableMapping[str, str]) -> None:
    """Note that this process is a rank, for its children, which inherit what the launcher said."""
    environment[PROCESS] = f"{os.getpid()} {_step(environment)}"


def refuse_child(environment: Mapping[str, str]) -> None:
    """Refuse to connect from a child of a rank: MPI would wait for ever, or take it for the rank.

    Raises
    ------
    LaunchError
        If a rank has started this process, and no launcher in between.
    """
    process, _, step = environment.get(PROCESS, "").partition(" ")
    if process and int(process) != os.getpid() and step == _step(environment):
        raise LaunchError(
            f"process {os.getpid()} was started by process {process}, which is a rank: it cannot "
            "be one, too. Workers that are spawned run the script again: put what it does under "
            'if __name__ == "__main__":'
        )


def node_name(environment: Mapping[str, str]) -> str:
    """Return what is equal on all ranks of a node, and different on two nodes.

    The running kernel tells machines apart, whatever hosts and containers are called, and Slurm's
    name tells nodes apart that it keeps on one machine. Not ``MPI_COMM_TYPE_SHARED``: libraries
    have taken NUMA domains for nodes.
    """
    return f"{machine_name()} {environment.get('SLURMD_NODENAME', '')}"


def machine_name() -> str:
    """Return what is equal in all processes under one running kernel, and different on two."""
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def split_by_node(all_ranks: "Group", name: str) -> "tuple[Group, list[int]]":
    """Collective: return the group of the ranks with this rank's ``node_name``, and for every
    world rank the first one of its node.
    """
    names = all_ranks.gather(name, name="nodes")
    first: dict[str, int] = {}
    nodes = [first.setdefault(name, rank) for rank, name in enumerate(names)]
    return all_ranks.split(nodes[all_ranks.rank], all_ranks.rank), nodes


def require_equal_nodes(nodes: Sequence[int]) -> None:
    """Refuse nodes that hold different numbers of ranks, each of which names another grid.

    nodes: of each world rank, as ``split_by_node`` returns them.
    """
    counts = Counter(nodes).values()
    if len(set(counts)) > 1:
        raise ValueError(
            f"grid.mode = hybrid: the nodes hold {', '.join(map(str, counts))} ranks, expected "
            "the same number on each; start so many on each, or set grid.sample_ranks"
        )


def node_rank_of(node: "Group", environment: Mapping[str, str]) -> int:
    """Collective over the node: return this rank's place on it, 0, 1, ...

    The launcher's word, to which it may have bound cores, where those of all ranks of the node
    number them so; else the order of the ranks.
    """
    mine = [environment.get(name, "") for name in NODE_RANKS]
    everyone = node.gather(mine, name="node rank")
    for at, words in enumerate(zip(*everyone, strict=True)):
        if sorted(words) == sorted(map(str, range(node.size))):
            return int(mine[at])
    return node.rank


def _step(environment: Mapping[str, str]) -> str:
    return "/".join(environment.get(name, "") for name in STEP)


def _environment_of(process: str) -> dict[str, str]:
    """Return what a process began with; nothing if that is not known."""
    try:
        content = Path(f"/proc/{int(process)}/environ").read_bytes()
    except (OSError, ValueError):
        return {}
    items = [item.partition("=") for item in content.decode(errors="replace").split("\0")]
    return {name: value for name, _, value in items}
