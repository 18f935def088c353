"""How (start, member) pairs are shared out: each once, in an order that finishes starts early, and
batches only where they give the bits of single starts.
"""

from collections import Counter

import pytest
import torch
from thread_group import on_ranks
from torch import Tensor

from hpc_bnn.group import ALONE, Group
from hpc_bnn.train.score.dealt_starts import AT_ONCE, deal, equal_batches, gives_same_bits

CASES = [(1, 1, 1), (1, 5, 3), (60, 8, 4), (100, 16, 3), (7, 2, 4), (3, 1, 8), (10, 2, 4)]


@pytest.mark.parametrize(("starts", "members", "ranks"), CASES)
def test_every_pair_is_computed_once_and_files_follow(
    starts: int, members: int, ranks: int
) -> None:
    def work(all_ranks: Group) -> object:
        turns = deal(starts, members, all_ranks, state_bytes=1, is_neutral=lambda _: True)
        mine = [turns.task(turn, all_ranks.rank) for turn in range(len(turns))]
        return turns, mine

    found: list = on_ranks(ranks, work)
    turns = found[0][0]
    pairs, created, ended = Counter(), set(), set()  # type: ignore[var-annotated]
    for turn in range(len(turns)):
        created |= set(turns.begun(turn))
        for _, mine in found:
            if mine[turn] is not None:
                batch, member = mine[turn]
                assert len(batch) <= AT_ONCE and set(batch) <= created and not set(batch) & ended
                pairs.update((start, member) for start in batch)
        ended |= set(turns.ended(turn))
        for start in ended:
            assert all(pairs[start, member] == 1 for member in range(members))
    assert set(pairs.values()) == {1} and len(pairs) == starts * members
    assert ended == set(range(starts)) and turns.begun(len(turns)) == []
    # No rank has more than a turn of nothing.
    assert all(sum(task is None for task in mine) <= 1 for _, mine in found)


def test_no_starts_have_no_turns() -> None:
    turns = deal(0, 3, ALONE, state_bytes=1, is_neutral=lambda _: True)
    assert len(turns) == 0 and turns.begun(0) == turns.ended(0) == []


def test_small_sets_are_spread_over_all_ranks() -> None:
    assert equal_batches(10, 4) == (range(3), range(3, 6), range(6, 10))
    shared = on_ranks(
        4, lambda ranks: deal(8, 1, ranks, state_bytes=1, is_neutral=lambda _: True).batches
    )
    assert [len(batch) for batch in shared[0]] == [2, 2, 2, 2]
    large = deal(8, 1, ALONE, state_bytes=1 << 23, is_neutral=lambda _: True).batches
    assert [len(batch) for batch in large] == [2, 2, 2, 2]


def test_one_rank_where_batches_give_other_bits_decides_for_all() -> None:
    """Sizes that occur are tried, and no others."""
    tried = []

    def work(all_ranks: Group) -> int:
        def trial(sizes: object) -> bool:
            tried.append(sizes)
            return all_ranks.rank != 1

        return len(deal(15, 4, all_ranks, state_bytes=1, is_neutral=trial).batches)

    assert on_ranks(3, work) == [15, 15, 15]
    assert tried == [[7, 8]] * 3


def test_bits_of_batches_are_compared_with_single_starts() -> None:
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def alone(x: Tensor, which: slice) -> Tensor:
        return x * torch.arange(5.0)[which, None]

    def together(x: Tensor, which: slice) -> Tensor:
        return x + (1e-7 * x.abs() if len(x) == 4 else 0)

    assert gives_same_bits(alone, states, [4, 5])
    assert gives_same_bits(together, states, [3, 5])
    assert not gives_same_bits(together, states, [3, 4])
