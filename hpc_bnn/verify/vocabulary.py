"""What scores are called, their units, what they should be, and which of two values is better: one
table for logs, rankings and reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "nearer", "neither"]
OF_DATA = "of the data"


@dataclass(frozen=True)
class Score:
    """One score.

    unit: of its own; ``OF_DATA``: that of the data; empty: a pure number. nominal: the value that
    it should have, where nearer is better. says: what the value is to be compared with, in a log.
    """

    label: str
    better: Better
    unit: str = ""
    nominal: float = math.nan
    says: str = ""


SCORES = {
    "rmse": Score("RMSE of the mean", "lower", OF_DATA),
    "mae": Score("mean absolute error", "lower", OF_DATA),
    "crps": Score("CRPS", "lower", OF_DATA),
    "fair_crps": Score("fair CRPS", "lower", OF_DATA),
    "pinball": Score("pinball loss", "lower", OF_DATA),
    "nll_per_point": Score("NLL of a value", "lower", "nats"),
    "nll": Score("NLL of an example", "lower", "nats"),
    "accuracy": Score("accuracy", "higher", says="1 at best"),
    "brier": Score("Brier score", "lower", says="0 at best"),
    "expected_calibration_error": Score(
        "expected calibration error", "lower", says="0 if calibrated"
    ),
    "adaptive_calibration_error": Score(
        "adaptive calibration error", "lower", says="0 if calibrated"
    ),
    "acc": Score("anomaly correlation", "higher", says="1 at best"),
    "auroc": Score("AUROC", "higher", says="0.5: not told apart, 1: always"),
    "coverage_50": Score("coverage of the 50 % interval", "nearer", "", 0.5, "0.5 asked"),
    "coverage_90": Score("coverage of the 90 % interval", "nearer", "", 0.9, "0.9 asked"),
    "spread_skill_ratio": Score("spread-skill ratio", "nearer", "", 1.0, "1 if calibrated"),
    "pit_distance": Score("distance of the PIT from uniform", "lower", says="0 if calibrated"),
    "spread": Score("spread of the members", "neither", OF_DATA),
    "spread_epistemic": Score("spread, of the weights", "neither", OF_DATA),
    "spread_aleatoric": Score("spread, predicted noise", "neither", OF_DATA),
    "entropy": Score("entropy of the prediction", "neither", "nats"),
    "mutual_information": Score("mutual information", "neither", "nats"),
    "examples": Score("examples", "neither"),
    "points": Score("values scored", "neither"),
    "mse": Score("mean squared error", "lower"),
}
SKILL = Score("skill", "higher")
COUNTS = ("points", "examples")
# They grow with the number of points, neighbours among them: a log prints `pit_distance`, a report
# draws the histogram.
NOT_SHOWN = ("pit_chi_square", "pit_degrees_of_freedom")


def score_of(name: str) -> Score:
    """Return what is known of a score; of an unknown one its name."""
    return SCORES.get(name) or Score(name.replace("_", " "), "neither")
