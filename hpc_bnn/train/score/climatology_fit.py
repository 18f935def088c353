"""Fit the climatology to the training split of a run, on all ranks.

Letters: C channels, H latitude, W longitude.
"""

import math

import torch
from torch import Tensor

from hpc_bnn.data.sharding import in_turn
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.noise_times import HOUR_S
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.verify.climatology import Climatology, HarmonicSums, harmonics

READ_AT_ONCE = 16  # states, at most
READ_BYTES = 1 << 27  # of them, in float32
GOLDEN = (math.sqrt(5) - 1) / 2


def fit_climatology(
    rollout: Rollout, world: World, shape: tuple[int, int, int], most: int
) -> Climatology:
    """Collective over the world: fit the climatology to at most so many normalised states (C, H, W)
    of the training split. Its coefficients are the only fields that are held, and exchanged a
    channel at a time.
    """
    times = rollout.fields.train_times
    chosen = times[spread_evenly(len(times), most)]
    annual, daily = harmonics(int(times[0]), int(times[-1]), spacing_hours(times))
    sums = HarmonicSums(annual, daily, shape)
    turn = in_turn(len(chosen), data_rank=world.grid.world_rank, data_ranks=world.grid.world_size)
    at_once = states_at_once(shape)

    def add() -> None:
        for part in torch.split(chosen[turn], at_once) if len(turn) else ():
            sums.add(part, rollout.states(part).cpu())

    world.all_ranks.together(add, name="climatology")
    if world.all_ranks.size > 1:
        parts = {"cross": sums.cross.unbind(1), "squares": sums.squares.unbind(0)}
        for name, held in {"gram": (sums.gram,), **parts}.items():
            for one in held:
                total = world.all_ranks.all_reduce(
                    one.contiguous(), reduction="sum", name=f"climatology.{name}"
                )
                one.copy_(total)
    return sums.solve()


def states_at_once(shape: tuple[int, int, int]) -> int:
    """Return how many states (C, H, W) are read together."""
    return max(1, min(READ_AT_ONCE, READ_BYTES // (4 * math.prod(shape))))


def spread_evenly(number: int, most: int) -> Tensor:
    """Choose at most so many positions, one of each of equal stretches.

    Where in its stretch, the golden ratio says: equal steps could meet one hour of the day only.
    """
    count = min(most, number)
    edges = torch.arange(count + 1) * number // count
    place = torch.arange(count, dtype=torch.float64) * GOLDEN % 1
    return edges[:-1] + (place * edges.diff()).long()


def spacing_hours(times: Tensor) -> int:
    """Return the hours between neighbouring times (n,), a day of one time."""
    gaps = times.diff()
    return max(1, int(gaps.min()) // HOUR_S) if len(gaps) else 24
