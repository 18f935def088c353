"""This rank's place on its node: what MPI and what the launcher say."""

from collections.abc import Mapping

from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.comms import LaunchError

# What launchers say about the place of a rank on its node.
LAUNCHER_NODE_RANKS = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")


def node_rank_of(node: Channel, environment: Mapping[str, str]) -> int:
    """Collective over the node: return this rank's place on it, the launcher's word where it gives
    one.

    MPI libraries have taken NUMA domains for nodes; a launcher that numbers the ranks of this
    shared memory other than 0, 1, ... is an error, not a guess.
    """
    said = [environment.get(name, "") for name in LAUNCHER_NODE_RANKS]
    if "SLURM_STEP_ID" not in environment:
        said[0] = ""  # a leftover of the batch script, not of this step
    word = next((int(value) for value in said if value.isdigit()), node.rank)
    words = node.gather_objects(word, name="node rank")
    if sorted(words) != list(range(node.size)):
        raise LaunchError(
            f"the launcher numbers the {node.size} ranks that share this memory "
            f"{sorted(words)}, expected 0 to "
            f"{node.size - 1}: MPI and launcher disagree on what a node is; compare "
            f"{', '.join(LAUNCHER_NODE_RANKS)}"
        )
    return word
