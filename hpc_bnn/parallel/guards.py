"""Guards: one small collective proves that the ranks still do what the contract says.

    parameters     equal on all ranks
    batch          equal along the sample axis, different along the data axis
    weight draws   different along the sample axis

A fingerprint is the sum, in wrapping int64, of each element's bits mixed with its position by a
one-to-one function: equal tensors have equal fingerprints on every rank, a change of one element
always changes it, and several changes (swaps, signs) cancel with probability 2**-64. Without the
mixing, two changed signs of float64 would cancel always. Source of the mixer: Steele, Lea, Flood
2014, doi:10.1145/2660193.2660195 (splitmix64).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.grid import Grid

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd numbers of splitmix64, as signed integers.
_STRIDE = 0x9E3779B97F4A7C15 - (1 << 64)
_ROUNDS = (
    (30, 0xBF58476D1CE4E5B9 - (1 << 64)),
    (27, 0x94D049BB133111EB - (1 << 64)),
    (31, 1),
)


class GuardError(RuntimeError):
    """The ranks of a run disagree where they must agree, or agree where they must differ."""


def fingerprint(tensor: Tensor) -> int:
    """Return a 64-bit fingerprint of the bits and positions of ``tensor``."""
    bits = tensor.detach().contiguous().view(-1).view(_BITS[tensor.element_size()]).to(torch.int64)
    mixed = bits + torch.arange(bits.numel(), dtype=torch.int64, device=bits.device) * _STRIDE
    for shift, factor in _ROUNDS:
        # torch shifts the sign in from the left; the mask makes it a shift of unsigned bits.
        mixed = (mixed ^ (mixed >> shift & ((1 << 64 - shift) - 1))) * factor
    return int(mixed.sum())


def agree(channel: Channel, values: Mapping[str, object], *, name: str) -> None:
    """Collective: prove that every rank holds the same ``values``; the error names key, ranks and
    both values.
    """
    everyone = channel.gather_objects(dict(values), name=name)
    for rank, other in enumerate(everyone):
        for key in sorted(set(everyone[0]) | set(other)):
            first, here = everyone[0].get(key, "missing"), other.get(key, "missing")
            if first != here:
                raise GuardError(
                    f"{name}: {key} is {first!r} on world rank 0 and {here!r} on world rank "
                    f"{rank}; all ranks must start from the same settings, code and data"
                )


def check(
    channel: Channel,
    grid: Grid,
    *,
    step: int,
    parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
    draw: Tensor,
) -> None:
    """Collective over the world: prove the three guards, or raise GuardError on every rank.

    Parameters
    ----------
    parameters
        All parameters by name.
    batch
        The tensors of this rank's batch, before augmentation.
    draw
        The first weights that this rank drew in this step.
    """
    if channel.size == 1:
        return
    each = {name: fingerprint(p) for name, p in parameters.items()}
    mine = (hash(tuple(each.values())), tuple(fingerprint(t) for t in batch), fingerprint(draw))
    rows = channel.gather_objects(mine, name="guards")
    if len({row[0] for row in rows}) > 1:
        _name_parameter(channel, step, each)
    for rank, (_, batch_here, draw_here) in enumerate(rows):
        place = Grid(grid.sample_ranks, grid.data_ranks, rank)
        for other in place.sample_axis:
            if other < rank and rows[other][1] != batch_here:
                raise GuardError(
                    f"step {step}: world ranks {other} and {rank} hold different batches, but are "
                    f"sample ranks {other % grid.sample_ranks} and {place.sample_rank} of data "
                    f"rank {place.data_rank}; give all sample ranks of one data rank the same "
                    "batch (shard by data_rank, not by world_rank)"
                )
            if other < rank and rows[other][2] == draw_here:
                raise GuardError(
                    f"step {step}: world ranks {other} and {rank} drew the same weights, but are "
                    f"different sample ranks of data rank {place.data_rank}; each must draw its "
                    "own samples"
                )
        for other in place.data_axis:
            if other < rank and rows[other][1] == batch_here:
                raise GuardError(
                    f"step {step}: world ranks {other} and {rank} hold the same batch, but are "
                    f"data ranks {other // grid.sample_ranks} and {place.data_rank}; give every "
                    "data rank its own examples"
                )


def _name_parameter(channel: Channel, step: int, each: Mapping[str, int]) -> None:
    """Collective: raise GuardError for the first parameter that differs; called by all ranks on the
    same evidence.
    """
    everyone = channel.gather_objects(dict(each), name="guards.parameters")
    for name, value in everyone[0].items():
        for rank, other in enumerate(everyone):
            if other.get(name) != value:
                raise GuardError(
                    f"step {step}: parameter {name} differs between world ranks 0 and {rank}; "
                    "something changed it on some ranks only (an update outside hb.Step, a seed "
                    "per rank, a load on one rank)"
                )
    raise GuardError(f"step {step}: the ranks hold parameters of different names")
