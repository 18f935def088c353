"""Options of a chosen model, loss, data set or transform against the signature of the choice."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from torch import Tensor, nn

from hpc_bnn.config import CONFIGS, SettingsError, check_options, choose, load_settings
from hpc_bnn.train.run.build import check_choices, resolved


def chosen(
    size: Sequence[int],
    *,
    width: int,
    rate: float = 0.0,
    kind: str = "plain",
    weights: Tensor | None = None,
    place: Path | None = None,
    shares: tuple[float, float] = (0.5, 0.5),
) -> None:
    """Stand for a model or a data set."""


def found(given: Sequence[str] = ("size",), **options: object) -> list[str]:
    return check_options("model", chosen, options, given=given)


def test_good_options() -> None:
    assert found(width=3) == []
    assert found(width=3, rate=1, kind="x", place="some/file", shares=[0.25, 0.75]) == []
    assert found(width=3, rate=float("inf")) == []


def test_unknown_option_names_the_nearest_and_all() -> None:
    (problem,) = found(width=3, rat=0.5)
    assert problem == (
        "model.rat: unknown key; did you mean rate?; known: width, rate, kind, place, shares"
    )


def test_missing_option() -> None:
    assert found() == ["model.width: missing"]
    assert set(found(given=())) == {"model.size: missing", "model.width: missing"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"width": "wide"}, "model.width = 'wide': input should be a valid integer"),
        ({"width": 2.5}, "model.width = 2.5: input should be a valid integer"),
        ({"width": None}, "model.width = None: input should be a valid integer"),
        ({"width": True}, "model.width = True: input should be a valid integer"),
        ({"width": 1, "rate": "0.5"}, "model.rate = '0.5': input should be a valid number"),
        ({"width": 1, "kind": 3}, "model.kind = 3: input should be a valid string"),
        ({"width": 1, "shares": 3}, "model.shares = 3: input should be a valid"),
    ],
)
def test_wrong_type(options: dict[str, object], told: str) -> None:
    (problem,) = found(**options)
    assert problem.startswith(told)


def test_wrong_number_of_items_names_the_key() -> None:
    (problem,) = found(width=1, shares=[0.5])
    assert problem.startswith("model.shares = [0.5]: ")


def test_what_the_program_gives_cannot_be_set() -> None:
    (problem,) = found(width=3, size=[1])
    assert problem.startswith("model.size: unknown key")


def test_tensors_cannot_be_set_in_a_file() -> None:
    (problem,) = found(width=3, weights=[1.0])
    assert problem.startswith("model.weights: unknown key")
    assert "known: width, rate, kind, place, shares" in problem


def test_all_problems_at_once() -> None:
    assert len(found(rate="x", kin=1)) == 3


def test_classes_are_checked_by_their_constructor() -> None:
    class Network(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

    assert check_options("model", Network, {"width": 2}) == []
    assert check_options("model", Network, {}) == ["model.width: missing"]
    assert len(check_options("model", Network, {"width": 2, "depth": 1})) == 1


def test_choose() -> None:
    assert choose("loss", "crps", {"crps": 1}) is None
    assert choose("loss", "crsp", {"crps": 1, "nll": 2}) == (
        "loss.name = 'crsp': expected one of crps, nll; did you mean crps?"
    )


def wrong_choices(*overrides: str) -> list[str]:
    settings = load_settings(CONFIGS / "mlp_series.yaml", overrides)
    with pytest.raises(SettingsError) as caught:
        check_choices(settings, "my.yaml")
    assert all(problem.startswith("my.yaml: ") for problem in caught.value.problems)
    return [problem.removeprefix("my.yaml: ") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("loss.name=gausian_nll", "loss.name = 'gausian_nll': expected one of "),
        ("model.name=mpl", "model.name = 'mpl': expected one of "),
        ("data.name=digit", "data.name = 'digit': expected one of "),
        ("data.transform.name=jiter", "data.transform.name = 'jiter': expected one of "),
        ("data.transform={pixels: 1}", "data.transform.name = '': expected one of "),
        ("data.transform={name: shift}", "data.transform.pixels: missing"),
        ("data.transform={name: shift, pixels: far}", "data.transform.pixels = 'far'"),
        (
            "posterior.name=gausian",
            "posterior.name = 'gausian': expected one of dropout, ensemble, ",
        ),
        ("posterior.method=gausian", "posterior.name = 'gausian': expected one of "),
        ("posterior.sampels=4", "posterior.sampels: unknown key; did you mean samples?"),
        ("posterior.seed=4", "posterior.seed: unknown key"),
        ("posterior.temperature=0", "posterior.temperature = 0: input should be greater than 0"),
        ("posterior.initial_sigma=.inf", "posterior.initial_sigma = inf: input should be less"),
        ("posterior.antithetic=1", "posterior.antithetic = 1: input should be a valid boolean"),
        ("posterior.random=[1, 2]", "posterior.random = [1, 2]: "),
        ("posterior.random=everything", "posterior.random = 'everything': "),
        ("posterior.prior_sigma=fan-in", "posterior.prior_sigma = 'fan-in': input should be 'fan_"),
        ("model.widht=1", "model.widht: unknown key; did you mean width?"),
        ("model.width=wide", "model.width = 'wide'"),
        ("model.input_shape=[3]", "model.input_shape: unknown key"),
        ("loss.predictive=known", "loss.predictive = 'known'"),
        ("data.length=long", "data.length = 'long'"),
        ("data.fractions=[0.5, 0.5]", "data.fractions = [0.5, 0.5]"),
        ("train.rollout={0: 2}", "train.rollout = {0: 2}: data.name = 'synthetic_series' has no "),
    ],
)
def test_names_and_options_of_a_run(override: str, told: str) -> None:
    (problem,) = wrong_choices(override)
    assert problem.startswith(told)


def test_posterior_options_are_read_and_resolved() -> None:
    """Those of version 0.1 were written out in full."""
    old = ["method=gaussian", "random=layers", "prior_sigma=fan_in", "initial_sigma=0.01"]
    overrides = [f"posterior.{key}" for key in (*old, "antithetic=false", "temperature=1.0")]
    written = load_settings(CONFIGS / "mlp_series.yaml", [*overrides, "posterior.keep_noise=false"])
    check_choices(written, "my.yaml")
    bare = load_settings(CONFIGS / "mlp_series.yaml")
    assert bare.posterior.options == {"prior_sigma": "fan_in", "initial_sigma": 0.01}
    assert resolved(bare).posterior == resolved(written).posterior
    assert resolved(bare).posterior.options["temperature"] == 1.0
    assert set(resolved(bare).posterior.options) == set(written.posterior.options)


def test_name_and_method_of_a_posterior_must_agree() -> None:
    """A run of version 0.1 is taken up with ``posterior.name`` on the command line."""
    old = ["posterior.method=gaussian", "posterior.name=gaussian"]
    assert load_settings(CONFIGS / "mlp_series.yaml", old).posterior.options == {
        "prior_sigma": "fan_in",
        "initial_sigma": 0.01,
    }
    with pytest.raises(SettingsError, match=r"name = 'flow' and method = 'gaussian': .*leave it"):
        load_settings(CONFIGS / "mlp_series.yaml", [old[0], "posterior.name=flow"])


def test_problems_of_all_sections_come_together() -> None:
    told = wrong_choices("loss.name=a", "model.name=b", "data.name=c", "data.transform.name=d")
    assert [problem.partition(" ")[0] for problem in told] == [
        "loss.name",
        "model.name",
        "data.name",
        "data.transform.name",
    ]


def test_a_csv_run_without_its_columns_names_each_missing_key() -> None:
    told = wrong_choices("data={name: series, path: x.csv}")
    assert told == [
        f"data.{key}: missing" for key in ("time_column", "value_columns", "history", "horizon")
    ]
