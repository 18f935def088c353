"""The learning rate as a function of the step."""

import math

import pytest

from hpc_bnn.train.step.schedule import learning_rate, rollout_steps


def test_warm_up_rises_linearly_to_the_peak() -> None:
    rates = [learning_rate(s, total_steps=100, lr=2.0, warmup_steps=4) for s in range(5)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0], rel=1e-15)


def test_cosine_ends_at_the_minimum() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, total_steps=110, lr=1.0, lr_min=0.1, warmup_steps=10)

    assert rate(10) == 1.0
    assert rate(60) == pytest.approx(0.55, rel=1e-12)
    assert rate(110) == pytest.approx(0.1, rel=1e-12)
    assert rate(500) == pytest.approx(0.1, rel=1e-12)
    expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.25))
    assert rate(35) == pytest.approx(expected, rel=1e-12)
    falling = [rate(step) for step in range(10, 110)]
    assert falling == sorted(falling, reverse=True)


def test_constant() -> None:
    rates = {
        learning_rate(s, total_steps=9, lr=0.3, lr_min=0.1, schedule="constant") for s in range(9)
    }
    assert rates == {0.3}
    first = learning_rate(0, total_steps=9, lr=0.3, warmup_steps=3, schedule="constant")
    assert first == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (5, 5), (5, 50)])
def test_short_runs_have_positive_finite_rates(total: int, warmup: int) -> None:
    for step in range(total):
        rate = learning_rate(step, total_steps=total, lr=1.0, warmup_steps=warmup)
        assert 0 < rate <= 1.0


def test_rollouts_by_epoch() -> None:
    rollout = {0: 2, 3: 4, 4: 1}
    assert [rollout_steps(epoch, rollout) for epoch in range(7)] == [2, 2, 2, 4, 1, 1, 1]
    assert {rollout_steps(epoch, {0: 1}) for epoch in range(9)} == {1}
