"""The schedule of rollouts: how it may be written, and how every mistake is told."""

import pytest

from hpc_bnn.config import CONFIGS, SettingsError, load_settings
from hpc_bnn.train.run.build import check_choices

CONFIG = CONFIGS / "mlp_series.yaml"


def rollout_of(*overrides: str) -> list[tuple[int, int]]:
    return list(load_settings(CONFIG, overrides).train.rollout.items())


def test_one_step_unless_told_otherwise() -> None:
    assert rollout_of() == [(0, 1)]
    assert load_settings(CONFIG).train.longest_rollout == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.rollout={0: 1, 3: 4, 5: 2}"],
        ["train.rollout={'0': 1, '3': 4, '5': 2}"],
        ["train.rollout={0: 1}", "train.rollout.3=4", "train.rollout.5=2"],
        ["train.rollout.0=1", "train.rollout.3=4", "train.rollout.5=2"],
    ],
)
def test_epochs_as_numbers_texts_and_keys(overrides: list[str]) -> None:
    assert rollout_of(*overrides) == [(0, 1), (3, 4), (5, 2)]
    assert load_settings(CONFIG, overrides).train.longest_rollout == 4


@pytest.mark.parametrize(
    "value",
    [
        "4", "[1, 2]", "{}", "{1: 2}", "{0: 0}", "{0: 1, 2: -1}", "{0: 1, 5: 2, 3: 4}",
        "{0: 1, 2: 1.5}", "{0: true}", "{first: 1}", "{0: 1, -2: 3}", "{0.0: 1}", "{0: '2'}",
    ],
)  # fmt: skip
def test_what_is_no_schedule(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        rollout_of(f"train.rollout={value}")
    (problem,) = caught.value.problems
    assert problem.startswith("command line: train.rollout = ")
    assert problem.endswith(
        ": expected steps by first epoch, epochs that increase from 0 and at least 1 step, such as "
        "{0: 1, 10: 4}"
    )


WEATHER = CONFIGS / "swin_era5_5.625.yaml"


def problems_of(*overrides: str) -> tuple[str, ...]:
    try:
        check_choices(load_settings(WEATHER, overrides), "x")
    except SettingsError as error:
        return error.problems
    return ()


def test_what_rollouts_draw_anew() -> None:
    assert load_settings(WEATHER).train.redraw == "never"
    assert not problems_of("train.redraw=each_step", "train.rollout={0: 1, 5: 2}")
    assert not problems_of("train.redraw=each_step", "train.rollout={0: 1}")  # as ever


@pytest.mark.parametrize("method", ["ensemble", "sgld", "swag"])
def test_members_that_are_trained_are_not_drawn(method: str) -> None:
    options = ["train.redraw=each_step", "train.rollout={0: 2}", f"posterior={{name: {method}}}"]
    assert problems_of(*options) == (
        (
            f"x: train.redraw = 'each_step': the samples of posterior.name = '{method}' are "
            "members that are trained, so there are no others to draw; leave it out"
        ),
    )


def test_data_without_fields_take_one_step_only() -> None:
    check_choices(load_settings(CONFIG, ["train.rollout={0: 1, 7: 1}"]), "here")
    with pytest.raises(SettingsError, match=r"here: train\.rollout = \{0: 2\}: data\.name = "):
        check_choices(load_settings(CONFIG, ["train.rollout={0: 2}"]), "here")
