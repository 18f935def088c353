"""Times contenders against each other in interleaved rounds.

A machine's speed drifts: other users, clock frequency, memory. So every round runs every contender
once, in a random order, and contenders are compared by the medians over rounds. CPU time (of all
threads of the process) is what a busy machine spoils least; wall time is what counts where a
process waits for another.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One run of one contender, in seconds."""

    cpu_s: float
    wall_s: float


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    lower: float
    median: float
    upper: float


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    seed: int = 0,
    ready: Callable[[], None] = lambda: None,
) -> dict[str, list[Timing]]:
    """Return ``rounds`` timings of each contender, taken after ``warmup`` rounds.

    ``ready`` runs before each contender and is not timed. Under several ranks it must line them
    up; the same seed gives the same order on every rank.
    """
    if rounds < 2:
        raise ValueError(f"rounds = {rounds}: quartiles need at least 2")
    order = random.Random(seed)
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    for number in range(warmup + rounds):
        gc.collect()
        for name in order.sample(list(contenders), len(contenders)):
            ready()
            timing = timed(contenders[name])
            if number >= warmup:
                timings[name].append(timing)
    return timings


def timed(run: Callable[[], object]) -> Timing:
    """Return the timing of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return Timing(time.process_time() - cpu, time.perf_counter() - wall)


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of at least two values."""
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))
