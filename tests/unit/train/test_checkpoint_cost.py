"""The interval between checkpoints that their measured cost suggests."""

import math

import pytest

from hpc_bnn.train.run.checkpoint_cost import CheckpointCost, best_interval_s, lost_share


def test_the_interval_is_that_of_young() -> None:
    # Young 1974: a checkpoint of 3 minutes, a failure every 12 h on average.
    assert best_interval_s(180.0, 12 * 3600.0) == pytest.approx(math.sqrt(2 * 180 * 43200))
    assert best_interval_s(2.0, 100.0) == 20.0


def test_no_interval_is_longer_than_the_time_between_failures() -> None:
    # Daly 2006, eq. 37: where a checkpoint takes more than half of that time.
    assert best_interval_s(50.0, 100.0) == 100.0
    assert best_interval_s(80.0, 100.0) == 100.0
    assert best_interval_s(0.0, 100.0) == 0.0


def test_the_interval_loses_least() -> None:
    cost, mtbf = 3.0, 40_000.0
    best = best_interval_s(cost, mtbf)
    least = lost_share(best, cost, mtbf)
    assert least == pytest.approx(math.sqrt(2 * cost / mtbf))
    assert all(lost_share(best * factor, cost, mtbf) > least for factor in (0.5, 0.9, 1.1, 2.0))


def test_more_nodes_fail_more_often() -> None:
    cost = CheckpointCost(mtbf_hours=4000.0, nodes=16)
    cost.add(4.0, 1000)
    figures = cost.figures(step_s=0.5)
    assert figures["mtbf_hours"] == 250.0
    assert figures["suggested_interval_s"] == pytest.approx(math.sqrt(2 * 4.0 * 250 * 3600))
    assert figures["suggested_every"] == round(figures["suggested_interval_s"] / 0.5)


def test_the_cost_is_the_median_and_the_size_that_of_the_last() -> None:
    cost = CheckpointCost(mtbf_hours=1.0, nodes=1)
    for seconds, size in ((9.0, 10), (1.0, 20), (2.0, 30)):
        cost.add(seconds, size)
    figures = cost.figures(step_s=1.0)
    assert (figures["cost_s"], figures["bytes"], figures["measured"]) == (2.0, 30, 3)


def test_without_a_checkpoint_or_a_step_there_is_no_suggestion() -> None:
    cost = CheckpointCost(mtbf_hours=1.0, nodes=1)
    figures = cost.figures(step_s=1.0)
    assert figures["cost_s"] is figures["bytes"] is figures["suggested_every"] is None
    cost.add(1.0, 5)
    assert cost.figures(step_s=math.nan)["suggested_every"] is None
    assert cost.figures(step_s=math.nan)["suggested_interval_s"] > 0


def test_a_suggestion_is_at_least_a_step() -> None:
    cost = CheckpointCost(mtbf_hours=1.0, nodes=1)
    cost.add(1e-3, 5)
    assert cost.figures(step_s=1e6)["suggested_every"] == 1


def test_the_text_names_cost_failures_and_setting() -> None:
    cost = CheckpointCost(mtbf_hours=4000.0, nodes=2)
    cost.add(0.5, 3_200_000)
    text = cost.describe(step_s=2.0, every=500)
    assert text == (
        "a checkpoint takes 0.50 s (3.2 MB): if a node fails every 4000 h (train.mtbf_hours), "
        "one of 2 every 2000 h, the least time is lost with one every 1342 steps (45 min); "
        "train.checkpoint_every = 500"
    )
