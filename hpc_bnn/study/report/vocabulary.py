"""What scores are called, their units, and which of two values is better."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpc_bnn.study.report.blocks import unit_text

Better = Literal["lower", "higher", "nearer", "neither"]
OF_DATA = "of the data"


@dataclass(frozen=True)
class Score:
    """One score.

    unit: of its own; ``OF_DATA``: that of the data; empty: a pure number. nominal: the value that
    it should have, where nearer is better.
    """

    label: str
    better: Better
    unit: str = ""
    nominal: float = math.nan

    def in_unit(self, of_data: str) -> str:
        """Return the label with the unit."""
        unit = unit_text(of_data) if self.unit == OF_DATA else self.unit
        wish = f", nominal {self.nominal:g}" if self.better == "nearer" else ""
        return f"{self.label}{wish}{f' [{unit}]' if unit else ''}"


SCORES = {
    "rmse": Score("RMSE of the mean", "lower", OF_DATA),
    "mae": Score("mean absolute error", "lower", OF_DATA),
    "crps": Score("CRPS", "lower", OF_DATA),
    "fair_crps": Score("fair CRPS", "lower", OF_DATA),
    "pinball": Score("pinball loss", "lower", OF_DATA),
    "nll_per_point": Score("NLL of a value", "lower", "nats"),
    "nll": Score("NLL of an example", "lower", "nats"),
    "accuracy": Score("accuracy", "higher"),
    "brier": Score("Brier score", "lower"),
    "expected_calibration_error": Score("expected calibration error", "lower"),
    "adaptive_calibration_error": Score("adaptive calibration error", "lower"),
    "acc": Score("anomaly correlation", "higher"),
    "auroc": Score("AUROC", "higher"),
    "coverage_50": Score("coverage of the 50 % interval", "nearer", nominal=0.5),
    "coverage_90": Score("coverage of the 90 % interval", "nearer", nominal=0.9),
    "spread_skill_ratio": Score("spread-skill ratio", "nearer", nominal=1.0),
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
# The histogram shows what these say of thousands of dependent values.
LEFT_OUT = ("pit_chi_square", "pit_degrees_of_freedom")


def score_of(key: str) -> Score:
    """Return what is known of a score; of an unknown one its name."""
    return SCORES.get(key) or Score(key.replace("_", " "), "neither")


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
