"""The clock of a step: phases add up, exchanges inside a phase count as communication."""

import pytest
import torch

from hpc_bnn.train.step import phases as module
from hpc_bnn.train.step.phases import PHASES, Phases


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
        found = phases.end()
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


def test_an_exchange_inside_forward_is_communication(clock: list[float]) -> None:
    waited = [7.0]
    phases = Phases(torch.device("cpu"), lambda: waited[0])
    phases.begin()
    phases.enter("forward")
    clock[0] += 5
    waited[0] += 2
    phases.enter("communication")
    clock[0] += 1
    found = phases.end()
    assert (found["forward"], found["communication"]) == (3.0, 3.0)


def test_a_phase_that_fails_goes_back_to_the_one_before(clock: list[float]) -> None:
    phases = Phases(torch.device("cpu"))
    phases.begin()
    phases.enter("forward")
    with pytest.raises(RuntimeError), phases.within("draw"):
        clock[0] += 1
        raise RuntimeError
    clock[0] += 2
    assert phases.end()["forward"] == 2.0
