"""Scores as a log prints them: each with its unit, or with the value to compare it with.

What a forecast does not define is not printed, nor is chi-square, which grows with the number of
points, neighbours among them: instead of it, how far the PIT is from uniform.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from hpc_bnn.verify.vocabulary import COUNTS, NOT_SHOWN, OF_DATA, score_of

NAME_WIDTH = 38


def score_lines(scores: Mapping[str, float], units: str = "", *, of: str = "") -> list[str]:
    """Return a line for each score that has a value.

    units: of the data, such as "MW"; empty where unknown. of: what was scored, in front of names.
    """
    shown = {name: value for name, value in scores.items() if name not in NOT_SHOWN}
    if scores.get("points") and "pit_chi_square" in scores:
        shown["pit_distance"] = math.sqrt(scores["pit_chi_square"] / scores["points"])
    return [
        f"  {of + name:{NAME_WIDTH}s} {_in_words(name, value, units)}".rstrip()
        for name, value in shown.items()
        if math.isfinite(value)
    ]


def _in_words(name: str, value: float, units: str) -> str:
    if name in COUNTS:
        return f"{value:.0f} scored"
    score = score_of(name)
    unit = units if score.unit == OF_DATA else score.unit
    return f"{value:.4g} {unit or (score.says and f'({score.says})')}"
