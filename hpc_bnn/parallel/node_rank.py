"""Which ranks share a node, and this rank's place there."""

import socket
from collections.abc import Mapping
from pathlib import Path

from hpc_bnn.parallel.channel import Channel

# What launchers say about the place of a rank on its node. A step of one launcher may run inside
# that of another, whose words its ranks inherit.
LAUNCHER_NODE_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def node_name(environment: Mapping[str, str]) -> str:
    """Return what is equal on all ranks of a node, and different on two nodes.

    The running kernel tells machines apart, whatever hosts and containers are called, and Slurm's
    name tells nodes apart that it keeps on one machine. Not ``MPI_COMM_TYPE_SHARED``: libraries
    have taken NUMA domains for nodes.
    """
    try:
        kernel = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        kernel = socket.gethostname()
    return f"{kernel} {environment.get('SLURMD_NODENAME', '')}"


def split_by_node(world: Channel, name: str) -> tuple[Channel, list[int]]:
    """Collective: return the channel of the ranks with this rank's ``node_name``, and for every
    world rank the first one of its node.
    """
    names = world.gather_objects(name, name="nodes")
    first: dict[str, int] = {}
    nodes = [first.setdefault(name, rank) for rank, name in enumerate(names)]
    return world.split(nodes[world.rank], world.rank), nodes


def node_rank_of(node: Channel, environment: Mapping[str, str]) -> int:
    """Collective over the node: return this rank's place on it, 0, 1, ...

    The launcher's word, to which it may have bound cores, where those of all ranks of the node
    number them so; else the order of the ranks.
    """
    mine = [environment.get(name, "") for name in LAUNCHER_NODE_RANKS]
    everyone = node.gather_objects(mine, name="node rank")
    for at, words in enumerate(zip(*everyone, strict=True)):
        if sorted(words) == sorted(map(str, range(node.size))):
            return int(mine[at])
    return node.rank
