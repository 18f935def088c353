"""Which validation was the best, and how long a better one is waited for."""

import math
from typing import get_args

import pytest

from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.train.run.validations import Course
from hpc_bnn.verify.ranking import JUDGED, best_of, decisive


def course(values: list[float], score: str = "crps") -> Course:
    made = Course(score)
    for number, value in enumerate(values, 1):
        made.add(10 * number, {score: value})
    return made


def test_the_score_is_the_first_that_there_is() -> None:
    assert decisive({"rmse": 1, "crps": 2, "accuracy": 3}) == "crps"
    assert decisive({"coverage_90": 1}) == ""
    made = Course("")
    made.add(5, {"nll": 2.0, "accuracy": 0.5})
    assert made.score == "nll"


def test_the_first_of_equal_ones_is_the_best_and_no_number_never() -> None:
    assert best_of("crps", [3.0, 1.0, math.nan, 1.0, 2.0]) == 1
    assert best_of("accuracy", [0.1, 0.7, 0.7]) == 1
    assert best_of("crps", [math.nan, math.inf]) is None


@pytest.mark.parametrize(
    ("values", "patience", "over"),
    [
        ([3, 1, 2, 2], 3, False),
        ([3, 1, 2, 2, 1], 3, True),  # equal is not better
        ([3, 1, 2, 2, 0.5], 3, False),
        ([math.nan, math.nan], 2, True),
        ([3, 2, 1], 0, False),
    ],
)
def test_patience(values: list[float], patience: int, over: bool) -> None:
    assert course(values).is_over(patience) is over


def test_what_is_told() -> None:
    assert course([3, 1, 2]).describe() == "crps 2, best 1 after step 20"
    assert course([3, 1]).describe() == "crps 1, the best so far"
    assert course([3, 1, 2]).summary() == {"score": "crps", "value": 1.0, "step": 20}
    assert course([math.nan]).summary() == {}


def test_a_score_that_is_not_there_says_which_are() -> None:
    with pytest.raises(ValueError, match=r"train\.judge_by = 'accuracy': .* expected one of crps"):
        Course("accuracy").add(1, {"crps": 1.0, "points": 3})


def test_the_setting_offers_what_can_be_judged() -> None:
    offered = get_args(TrainSettings.model_fields["judge_by"].annotation)
    assert offered == ("", *JUDGED)
