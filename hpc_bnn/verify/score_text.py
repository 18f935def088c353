"""Scores as a log prints them: each with its unit, or with the value to compare it with.

What a forecast does not define is not printed, nor is chi-square, which grows with the number of
points, neighbours among them: instead of it, how far the PIT is from uniform.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

# Of scores by name: the text behind the value; "{units}" are those of the data.
MEANINGS = {
    "points": "scored",
    "examples": "scored",
    **dict.fromkeys(("rmse", "crps", "fair_crps", "pinball"), "{units}"),
    **dict.fromkeys(("spread_epistemic", "spread_aleatoric"), "{units}"),
    **dict.fromkeys(("nll", "nll_per_point", "entropy", "mutual_information"), "nats"),
    "accuracy": "(1 at best)",
    "brier": "(0 at best)",
    "expected_calibration_error": "(0 if calibrated)",
    "adaptive_calibration_error": "(0 if calibrated)",
    "coverage_50": "(0.5 asked)",
    "coverage_90": "(0.9 asked)",
    "spread_skill_ratio": "(1 if calibrated)",
    "pit_distance": "(0 if calibrated)",
    "auroc": "(0.5: not told apart, 1: always)",
}
NOT_PRINTED = ("pit_chi_square", "pit_degrees_of_freedom")
NAME_WIDTH = 38


def score_lines(scores: Mapping[str, float], units: str = "", *, of: str = "") -> list[str]:
    """Return a line for each score that has a value.

    units: of the data, such as "MW"; empty where unknown. of: what was scored, in front of names.
    """
    shown = {name: value for name, value in scores.items() if name not in NOT_PRINTED}
    if scores.get("points") and "pit_chi_square" in scores:
        shown["pit_distance"] = math.sqrt(scores["pit_chi_square"] / scores["points"])
    return [
        f"  {of + name:{NAME_WIDTH}s} {_in_words(name, value, units)}".rstrip()
        for name, value in shown.items()
        if math.isfinite(value)
    ]


def _in_words(name: str, value: float, units: str) -> str:
    meaning = MEANINGS.get(name, "").format(units=units)
    number = f"{value:.0f}" if meaning == "scored" else f"{value:.4g}"
    return f"{number} {meaning}"
