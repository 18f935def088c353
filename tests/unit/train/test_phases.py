"""The clock of a step: phases add up, exchanges inside a phase count as communication."""

import pytest
import torch
from torch import Tensor

from hpc_bnn.group import Alone, Reduction
from hpc_bnn.train.step import phases as module
from hpc_bnn.train.step.phases import PHASES, Phases, TimedExchanges


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_phases_add_up_to_the_step(clock: list[float]) -> None:
    phases = Phases(torch.device("cpu"))
    for _ in range(2):  # a step does not see the one before
        phases.begin()
        clock[0] += 1
        phases.enter("forward")
        clock[0] += 2
        with phases.within("draw"):
            clock[0] += 4
        clock[0] += 8
        phases.enter("backward")
        clock[0] += 16
        phases.enter("optimizer")
        clock[0] += 32
        found = phases.end()()
        assert tuple(found) == PHASES
        assert found == {
            "draw": 4.0,
            "forward": 10.0,
            "backward": 16.0,
            "communication": 0.0,
            "optimizer": 32.0,
            "other": 1.0,
        }
        clock[0] += 1000


class Slow(Alone):
    """A process by itself that takes a second for each exchange of tensors."""

    def __init__(self, clock: list[float]) -> None:
        self._clock = clock

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        self._clock[0] += 1
        return x + 1

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        self._clock[0] += 1
        return x + 2

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        self._clock[0] += 1
        return x + 3


def test_an_exchange_inside_forward_is_communication(clock: list[float]) -> None:
    phases, x = Phases(torch.device("cpu")), torch.zeros(1, 1)
    axis = TimedExchanges(Slow(clock), phases)
    phases.begin()
    phases.enter("forward")
    clock[0] += 5
    exchanged = [
        axis.all_reduce(x, reduction="sum", name="a"),
        axis.all_gather(x, name="b"),
        axis.all_to_all(x, name="c"),
        axis.gather(x + 4, name="d")[0],
        axis.broadcast(x + 5, name="e"),
    ]
    assert [float(y) for y in exchanged] == [1, 2, 3, 4, 5]
    assert (axis.size, axis.rank, axis.split(0, 0).size) == (1, 0, 1)
    phases.enter("communication")
    clock[0] += 1
    found = phases.end()()
    assert (found["forward"], found["communication"]) == (5.0, 4.0)


@pytest.mark.skipif(not torch.autograd.kineto_available(), reason="torch without its profiler")
def test_profilers_see_the_phases() -> None:
    phases = Phases(torch.device("cpu"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        phases.begin()
        with phases.within("draw"):
            torch.ones(2).sum()
        phases.end()
        torch.ones(2).sum()
    names = [event.name for event in profile.events() if event.name.startswith("step: ")]
    assert names == ["step: other", "step: draw", "step: other"]


def test_a_phase_that_fails_goes_back_to_the_one_before(clock: list[float]) -> None:
    phases = Phases(torch.device("cpu"))
    phases.begin()
    phases.enter("forward")
    with pytest.raises(RuntimeError), phases.within("draw"):
        clock[0] += 1
        raise RuntimeError
    clock[0] += 2
    assert phases.end()()["forward"] == 2.0
