"""Which of several results is better, by one of their scores."""

import math
from collections.abc import Collection, Sequence

from hpc_bnn.verify.vocabulary import SCORES, Score

DECISIVE = ("crps", "nll", "fair_crps", "rmse", "brier")  # the first that there is
JUDGED = (*DECISIVE, "accuracy")  # what `train.judge_by` may name


def decisive(names: Collection[str]) -> str:
    """Return the score to judge by, of those that there are; "" where none of them can tell."""
    return next((name for name in DECISIVE if name in names), "")


def best_of(name: str, values: Sequence[float]) -> int | None:
    """Return the place of the best value of a score, the first of equal ones; None where none is a
    number. The lowest is best of a score that is not known.
    """
    score = SCORES.get(name) or Score(name, "lower")
    ranked = [(_cost(score, value), at) for at, value in enumerate(values) if math.isfinite(value)]
    return min(ranked)[1] if ranked else None


def best(score: Score, values: Sequence[float | None]) -> list[bool]:
    """Tell which of the values are the best, none where all are the same or a single one is."""
    held = [value for value in values if value is not None]
    if score.better == "neither" or len(set(held)) < 2:
        return [False] * len(values)
    costs = [None if value is None else _cost(score, value) for value in values]
    least = min(cost for cost in costs if cost is not None)
    return [cost == least for cost in costs]


def _cost(score: Score, value: float) -> float:
    if score.better == "nearer":
        return abs(value - score.nominal)
    return -value if score.better == "higher" else value
