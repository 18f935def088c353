"""Which rank holds the newest state of a run: a checkpoint, which rank 0 sees, or a snapshot in the
memory of a node.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hpc_bnn.group import Group
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import PATTERN, Checkpoint, CheckpointError, load

log = logging.getLogger(__name__)

Found = tuple[Path, Checkpoint]


def newest(
    ranks: Group, files: Sequence[Path], read: Callable[[Path], Checkpoint] = load
) -> tuple[int, Found | None]:
    """Collective over ``ranks``: return the rank with the newest state that is whole, and there its
    file and the state; of several the lowest rank, of several on one the last. -1: there is none.

    files: of this rank. One that is half written or damaged is left out with one line.
    """
    left = sorted(enumerate(files), key=lambda item: (step_of(item[1]), item[0]))
    while True:
        # A maximum over (step, rank): the rank counts from the end, so that the lowest one wins.
        mine = -1
        if left:
            mine = step_of(left[-1][1]) * ranks.size + ranks.size - 1 - ranks.rank
        best = int(
            ranks.all_reduce(torch.tensor([mine]), reduction="max", name="newest state").item()
        )
        if best < 0:
            return -1, None
        owner = ranks.size - 1 - best % ranks.size
        found: Found | None = None
        if owner == ranks.rank:
            path = left.pop()[1]
            try:
                found = path, read(path)
            except CheckpointError as error:
                log.warning("%s; taking the next one", error)
        good = torch.tensor([found is not None]).to(torch.int64)
        if ranks.all_reduce(good, reduction="max", name="newest state").item():
            return owner, found


def step_of(path: Path) -> int:
    """Return the steps of a checkpoint from its name."""
    match = PATTERN.fullmatch(path.name)
    assert match is not None, path
    return int(match[1])


def led_by(world: World, owner: int) -> World:
    """Collective over the world: return a world in whose ``all_ranks`` the owner is rank 0, from
    which checkpoints are handed out.
    """
    if owner <= 0:
        return world
    ranks = world.all_ranks
    return replace(world, all_ranks=ranks.split(0, (ranks.rank - owner) % ranks.size))
