"""Which of two results is better, by one of their scores."""

import math
from collections.abc import Collection, Sequence

LOWER_IS_BETTER = ("crps", "nll", "fair_crps", "rmse", "brier")  # by the first that there is
HIGHER_IS_BETTER = ("accuracy",)


def decisive(names: Collection[str]) -> str:
    """Return the score to judge by, of those that there are; "" where none of them can tell."""
    return next((name for name in LOWER_IS_BETTER if name in names), "")


def best_of(name: str, values: Sequence[float]) -> int | None:
    """Return the place of the best value of a score, the first of equal ones; None where none is a
    number.
    """
    sign = -1.0 if name in HIGHER_IS_BETTER else 1.0
    ranked = [(sign * value, place) for place, value in enumerate(values) if math.isfinite(value)]
    return min(ranked)[1] if ranked else None
