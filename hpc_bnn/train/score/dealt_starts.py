"""How a set of forecasts is shared out: starts in batches, (batch, member) in turns over the ranks.

A member draws its weights once for a batch of starts, which run through the network together. What
a rank computes does not depend on who computes the rest, so the numbers are those of one rank, and
of a single start: a batch is used only where it gives the bits of its starts one by one, which is
tried (``starts_at_once``), and one start at a time elsewhere.

Tasks go batch by batch, so that starts are finished one after another and not all at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.group import Group

log = logging.getLogger(__name__)

AT_ONCE = 8  # starts; of 16 a pass is a fifth slower on CPUs, and a stop waits for it
AT_ONCE_BYTES = 1 << 24  # of the states that are stepped forward together


@dataclass(frozen=True)
class Turns:
    """Which (batch, member) each rank computes in each turn.

    batches: starts of each, as indices. The tasks of a turn are computed at the same time.
    """

    batches: tuple[range, ...]
    members: int
    ranks: int

    def __len__(self) -> int:
        """Count the turns."""
        return -(-len(self.batches) * self.members // self.ranks)

    def task(self, turn: int, rank: int) -> tuple[range, int] | None:
        """Return the starts and the member of a rank; None: it has nothing to do."""
        batch, member = divmod(turn * self.ranks + rank, self.members)
        return (self.batches[batch], member) if batch < len(self.batches) else None

    def begun(self, turn: int) -> list[int]:
        """Return the starts whose first member is computed in a turn; none behind the last."""
        return self._of_member(turn, 0)

    def ended(self, turn: int) -> list[int]:
        """Return the starts whose last member is computed in a turn."""
        return self._of_member(turn, self.members - 1)

    def _of_member(self, turn: int, member: int) -> list[int]:
        tasks = range(turn * self.ranks, (turn + 1) * self.ranks)
        found = [task // self.members for task in tasks if task % self.members == member]
        return [start for b in found if b < len(self.batches) for start in self.batches[b]]


def equal_batches(count: int, most: int) -> tuple[range, ...]:
    """Cut so many starts into as few batches as need be, whose sizes differ by at most 1."""
    number = -(-count // most)
    return tuple(range(count * i // number, count * (i + 1) // number) for i in range(number))


def most_at_once(state_bytes: int) -> int:
    """Return how many starts go through the network together; state_bytes: of one."""
    return max(1, min(AT_ONCE, AT_ONCE_BYTES // state_bytes))


def deal(
    count: int, members: int, all_ranks: Group, *, state_bytes: int, is_neutral: Trial
) -> Turns:
    """Collective: return the turns of ``count`` starts.

    state_bytes: of what is stepped forward, of a start. is_neutral: tells whether batches of these
    sizes give the bits of single starts.
    """
    ranks = all_ranks.size
    # Small sets are spread over all ranks first.
    most = max(1, min(most_at_once(state_bytes), count * members // ranks))
    batches = equal_batches(count, most)
    sizes = sorted({len(batch) for batch in batches} - {1})
    if sizes:
        same = all_ranks.together(lambda: is_neutral(sizes), name="batches of starts")
        if not all(all_ranks.gather(same, name="batches of starts")):
            log.info("batches of starts give other bits than single starts here: one start a pass")
            batches = equal_batches(count, 1)
    return Turns(batches, members, ranks)


Trial = Callable[[Sequence[int]], bool]


def gives_same_bits(
    step: Callable[[Tensor, slice], Tensor], states: Tensor, sizes: Sequence[int]
) -> bool:
    """Tell whether ``step`` (states, which of them) gives the same bits for states (B, ...) in
    batches of these sizes as for each alone.

    In which order a sum is added up depends on the shape and the library alone, not on the values.
    """
    alone = torch.cat([step(states[i : i + 1], slice(i, i + 1)) for i in range(max(sizes))])
    return all(torch.equal(step(states[:n], slice(0, n)), alone[:n]) for n in sizes)
