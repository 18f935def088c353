"""The sample x data grid of ranks as pure arithmetic: no communication, no MPI.

The sample axis is innermost, world_rank = data_rank * S + sample_rank, so that the samples of one
batch share a node.
"""

import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["local", "sample", "data", "hybrid"]


def divisors(number: int) -> list[int]:
    """Return the divisors of ``number`` in rising order."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


@dataclass(frozen=True)
class Grid:
    """Where one rank stands on a grid of S sample ranks x D data ranks."""

    sample_ranks: int
    data_ranks: int
    world_rank: int

    @property
    def world_size(self) -> int:
        return self.sample_ranks * self.data_ranks

    @property
    def sample_rank(self) -> int:
        return self.world_rank % self.sample_ranks

    @property
    def data_rank(self) -> int:
        return self.world_rank // self.sample_ranks

    @property
    def sample_axis(self) -> list[int]:
        """World ranks that hold the other samples of this rank's batch."""
        first = self.data_rank * self.sample_ranks
        return list(range(first, first + self.sample_ranks))

    @property
    def data_axis(self) -> list[int]:
        """World ranks that hold the same samples on other parts of the batch."""
        return list(range(self.sample_rank, self.world_size, self.sample_ranks))

    def own_samples(self, samples: int) -> range:
        """Return the global indices of this rank's weight samples.

        Raises
        ------
        ValueError
            If the sample ranks do not share ``samples`` equally.
        """
        if samples < 1 or samples % self.sample_ranks:
            raise ValueError(
                f"posterior.samples = {samples}: must be a positive multiple of the "
                f"{self.sample_ranks} sample ranks; "
                f"set posterior.samples to one, or grid.sample_ranks to a divisor of {samples} "
                f"({_listed(divisors(max(1, samples)))})"
            )
        count = samples // self.sample_ranks
        return range(self.sample_rank * count, (self.sample_rank + 1) * count)

    def own_examples(self, batch_size: int) -> range:
        """Return the positions in the global batch of this rank's examples.

        Raises
        ------
        ValueError
            If the data ranks do not share ``batch_size`` equally.
        """
        if batch_size < 1 or batch_size % self.data_ranks:
            raise ValueError(
                f"train.batch_size = {batch_size}: must be a positive multiple of the "
                f"{self.data_ranks} data ranks; "
                "set train.batch_size to one, or grid.sample_ranks so that the data ranks "
                "divide it"
            )
        count = batch_size // self.data_ranks
        return range(self.data_rank * count, (self.data_rank + 1) * count)


def choose_sample_ranks(
    world_size: int,
    ranks_per_node: int,
    *,
    mode: Mode = "hybrid",
    sample_ranks: int | Literal["auto"] = "auto",
) -> int:
    """Return S for a world: as given, or by mode: sample S = world, data S = 1, hybrid S = ranks
    per node.

    Raises
    ------
    ValueError
        If a mode does not fit the world or the given number; the message names both numbers and the
        valid choices.
    """
    if mode not in ("local", "sample", "data", "hybrid"):
        raise ValueError(f"grid.mode = {mode!r}: expected local, sample, data or hybrid")
    if mode == "local" and world_size > 1:
        raise ValueError(
            f"grid.mode = local: runs on one rank, this job has {world_size}; use sample, data "
            "or hybrid"
        )
    if sample_ranks == "auto":
        ranks = {"local": 1, "sample": world_size, "data": 1, "hybrid": ranks_per_node}[mode]
        if world_size % ranks:
            raise ValueError(
                f"grid.mode = hybrid: the {ranks_per_node} ranks of a node must divide the "
                f"{world_size} ranks of this "
                f"job; set grid.sample_ranks to one of {_listed(divisors(world_size))}"
            )
        return ranks
    if not isinstance(sample_ranks, int) or sample_ranks < 1 or world_size % sample_ranks:
        raise ValueError(
            f"grid.sample_ranks = {sample_ranks!r}: must divide the {world_size} ranks of this job "
            f"({_listed(divisors(world_size))})"
        )
    fixed = {"local": 1, "sample": world_size, "data": 1}
    if mode in fixed and sample_ranks != fixed[mode]:
        raise ValueError(
            f"grid.sample_ranks = {sample_ranks} contradicts grid.mode = {mode}, which means "
            f"{fixed[mode]} on "
            f"{world_size} ranks; leave one of them out"
        )
    return sample_ranks


def fitting_grids(world_size: int, *, samples: int, batch_size: int) -> list[tuple[int, int]]:
    """Return every S x D = world_size whose S divides the samples and D the batch, S rising.

    Raises
    ------
    ValueError
        If there is none; the message names the nearest numbers that fit.
    """

    def grids(ranks: int) -> list[tuple[int, int]]:
        pairs = [(s, ranks // s) for s in divisors(ranks)]
        return [(s, d) for s, d in pairs if samples % s == 0 and batch_size % d == 0]

    fits = grids(world_size)
    if fits:
        return fits
    fitting = {s * d for s in divisors(samples) for d in divisors(batch_size)}
    below = max(n for n in fitting if n < world_size)  # 1 always fits
    above = min((n for n in fitting if n > world_size), default=None)
    ranks = f"{below} or {above}" if above else str(below)
    more = [-(-number // world_size) * world_size for number in (samples, batch_size)]
    raise ValueError(
        f"grid.mode = auto: no S x D = {world_size} ranks has an S that divides posterior.samples "
        f"= {samples} and a D that divides train.batch_size = {batch_size}; use {ranks} ranks, "
        f"posterior.samples={more[0]} or train.batch_size={more[1]}"
    )


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
