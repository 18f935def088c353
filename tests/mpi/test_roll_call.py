"""The roll call names a rank that does not answer, and no rank that was only late."""

import time

import pytest
from mpi4py import MPI

from hpc_bnn.parallel import roll_call
from hpc_bnn.parallel.roll_call import RollCall, State

RANK, SIZE = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
ASKER, LATE = min(1, SIZE - 2), SIZE - 1  # the first rank leads

pytestmark = pytest.mark.skipif(SIZE < 2, reason="a rank alone waits for nobody")


class Place:
    """One rank of a roll call that takes tenths of a second, and where it is."""

    def __init__(self) -> None:
        self.exchanges = 4 if RANK == LATE else 5
        self.said: list[str] = []
        self.call = RollCall(
            MPI,
            MPI.COMM_WORLD.Dup(),
            [f"n{rank}" for rank in range(SIZE)],
            state=lambda: State(self.exchanges, 1.0),
            speak=self.said.append,
        )

    def turns(self, seconds: float, *, answers: bool = True) -> None:
        """Let some time go by."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if answers:
                self.call.turn()
            time.sleep(0.01)
        MPI.COMM_WORLD.Barrier()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, seconds in (("SETTLE_S", 0.2), ("ANSWER_S", 0.5), ("PATIENCE_S", 3.0)):
        monkeypatch.setattr(roll_call, name, seconds)
    return Place()


def test_a_rank_that_does_not_answer_is_named_once(place: Place) -> None:
    if RANK == ASKER:
        place.call.ask("gradients", 600.0)
    place.turns(2.5, answers=RANK != LATE)
    named = f"rank {LATE} (n{LATE}) does not answer: it is stopped, or the node hangs"
    expected = f"rank {ASKER} of {SIZE} has waited 600 s in gradients: {named}"
    assert place.said == ([expected] if RANK == 0 else [])


@pytest.mark.parametrize("answers", [True, False], ids=["busy", "silent"])
def test_a_rank_that_comes_late_ends_nothing(place: Place, answers: bool) -> None:
    """It comes before all have answered; nobody speaks until somebody waits again."""
    if RANK == ASKER:
        place.call.ask("gradients", 600.0)
    place.turns(0.15, answers=answers or RANK != LATE)
    place.exchanges = 6
    place.turns(4.0, answers=answers or RANK != LATE)
    assert place.said == []
    if RANK == ASKER:
        place.call.ask("gradients", 900.0)
    place.turns(2.5, answers=RANK != LATE)
    assert [f"rank {ASKER} of {SIZE} has waited 900 s" in said for said in place.said] == (
        [True] if RANK == 0 else []
    )
