"""Scores in a log: units or reference values, nothing that means nothing."""

import math

import torch

from hpc_bnn.train.score.weather_report import weather_table
from hpc_bnn.verify.class_tally import ClassificationTally
from hpc_bnn.verify.score_text import score_lines
from hpc_bnn.verify.tally import RegressionTally
from hpc_bnn.verify.vocabulary import NOT_SHOWN, SCORES


def test_units_and_reference_values() -> None:
    scores = {
        "points": 41520.0,
        "rmse": 2.43596,
        "nll_per_point": 2.33608,
        "coverage_90": 0.961392,
        "spread_skill_ratio": 1.25,
        "own_score": 3.0,
    }
    words = [line.split(maxsplit=1) for line in score_lines(scores, "MW")]
    assert words == [
        ["points", "41520 scored"],
        ["rmse", "2.436 MW"],
        ["nll_per_point", "2.336 nats"],
        ["coverage_90", "0.9614 (0.9 asked)"],
        ["spread_skill_ratio", "1.25 (1 if calibrated)"],
        ["own_score", "3"],
    ]
    assert score_lines({"rmse": 2.0}, of="day before: ") == [f"  {'day before: rmse':38s} 2"]


def test_nothing_that_means_nothing() -> None:
    assert score_lines({"nll_per_point": math.nan, "crps": math.inf, "rmse": 1.0}, "K") == [
        f"  {'rmse':38s} 1 K"
    ]


def test_distance_from_uniform_does_not_grow_with_the_points() -> None:
    """Twice the share in one of ten bins: sqrt(mean((10 p - 1)^2)), for any number of points."""
    pit = torch.tensor([0.05, 0.05, *(0.05 + 0.1 * k for k in range(2, 10))]).double()
    expected = (2 * 1 / 10) ** 0.5  # bins 0 and 1 hold twice their share and nothing
    for copies in (1, 50):
        tally = RegressionTally()
        truth = torch.special.ndtri(pit.repeat(copies))[:, None]
        zero = torch.zeros(1, *truth.shape, dtype=torch.float64)
        tally.add(zero, zero + 1, truth)
        (line,) = (x for x in score_lines(tally.result()) if "pit" in x)
        assert line.split() == ["pit_distance", f"{expected:.4g}", "(0", "if", "calibrated)"]


def test_every_score_of_the_tallies_has_a_meaning() -> None:
    regression, classes = RegressionTally(levels=(0.5,)), ClassificationTally()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 20, 4, generator=g)
    regression.add(x, x.exp(), x[0])
    ensemble = RegressionTally()
    ensemble.add(x, None, x[0])
    classes.add(x, None, torch.arange(20) % 4)
    for tally in (regression, ensemble, classes):
        assert set(tally.result()) <= {*SCORES, *NOT_SHOWN}


def test_a_table_of_fields_has_no_nan() -> None:
    held = {
        "rmse": [1.5], "crps": [0.5], "acc": [0.9], "persistence": {"rmse": [2.0], "crps": [1.0]},
        "climatology": {"rmse": [3.0], "crps": [1.25]},
    }  # fmt: skip
    result = {
        "data": "toy", "starts": 2, "members": 1, "lead_hours": [24], "units": {"t2m": "K"},
        "scores": {"t2m": held},
    }  # fmt: skip
    *_, names, references, row = weather_table(result)
    assert row.split() == [
        "t2m", "24", "h", "1.5", "2", "3", "0.5", "1", "1.25", "-", "-", "0.900", "[K]",
    ]  # fmt: skip
    assert "spread/skill" in names
    assert references.rstrip().endswith("(1 asked) (0.9 asked) (1 best)")
    result["scores"] = {"t2m": {**held, "spread_skill_ratio": [0.97], "coverage_90": [0.88]}}
    assert weather_table(result)[-1].split()[-4:] == ["0.97", "0.880", "0.900", "[K]"]
