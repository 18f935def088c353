"""Whether the order of the ranks suits the grid: the sample axis is innermost, so the ranks that
exchange most are neighbours, and belong on one node.
"""

from collections.abc import Sequence


def placement_problem(nodes: Sequence[int], sample_ranks: int) -> str | None:
    """Return what is wrong with the order in which the launcher dealt ranks to nodes, or None.

    nodes: of each world rank, the first rank of its node. It is compared with the same ranks in
    blocks, node by node: dealt in turns (cyclic), neighbours lie on different nodes.
    """
    blocks = sorted(nodes)
    for first in range(0, len(nodes), sample_ranks):
        group = slice(first, first + sample_ranks)
        used, needed = len(set(nodes[group])), len(set(blocks[group]))
        if used > needed:
            return (
                f"world ranks {first}-{first + sample_ranks - 1}, which share their batch, lie on "
                f"{used} nodes where {needed} would do: the launcher deals ranks out in turns "
                "(cyclic). Start with srun --distribution=block or mpirun --map-by slot"
            )
    return None
