"""What the data say about their grid reaches network and loss; what contradicts it is refused."""

from typing import Any

import pytest
import torch
from field_source import field_source
from torch import Tensor

from hpc_bnn.config import Settings, SettingsError
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.models.swin import Swin
from hpc_bnn.train.run.build import Parts, build, check_choices, read_source

ROWS, COLUMNS = 5, 8
SWIN = {"name": "swin", "width": 8, "depths": [0, 0, 0, 2], "heads": [2] * 4, "window": [2, 2]}


def settings(
    loss: dict[str, Any], model: dict[str, Any] | None = None, precision: str = "float64"
) -> Settings:
    return Settings.model_validate(
        {
            "loss": loss,
            "model": {**SWIN, **(model or {})},
            "data": {"name": "era5", "path": "nowhere"},
            "train": {"steps": 1, "precision": precision},
        }
    )


def made(
    loss: dict[str, Any], model: dict[str, Any] | None = None, *, rows: int = ROWS, **source: Any
) -> Parts:
    return build(settings(loss, model), field_source(rows=rows, columns=COLUMNS, **source))


def refused(*arguments: Any, **source: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        made(*arguments, **source)
    return str(caught.value)


def area() -> Tensor:
    """Areas of rows at 60, 35, 10, -15 and -40 degrees: bands of 25 degrees."""
    middle = torch.linspace(60, -40, ROWS, dtype=torch.float64)
    north, south = torch.deg2rad(middle + 12.5), torch.deg2rad(middle - 12.5)
    return torch.sin(north) - torch.sin(south)


def point_weights(channels: list[float], rows: Tensor) -> Tensor:
    """Return weights (C, H, W) of mean 1."""
    points = torch.tensor(channels, dtype=torch.float64)[:, None, None] * rows[:, None]
    points = points.expand(len(channels), ROWS, COLUMNS)
    return points / points.mean()


def members_and_truth(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(8)
    shape = (2, 2, ROWS, COLUMNS)
    members = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return members, torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("options", "channels", "by_area"),
    [
        ({}, [1.0, 1.0], True),
        ({"area_weights": False}, [1.0, 1.0], False),
        ({"channel_weights": {"b": 3}}, [1.0, 3.0], True),
        ({"channel_weights": {"a": 0.5, "b": 0.0}, "area_weights": False}, [0.5, 0.0], False),
    ],
    ids=["area", "equal", "area and channels", "channels"],
)
@pytest.mark.parametrize("layout", ["gather", "transposed"])
def test_weights_reach_the_crps(
    options: dict[str, Any], channels: list[float], by_area: bool, layout: str
) -> None:
    """The fair CRPS, pair by pair, as a weighted mean over points."""
    members, truth = members_and_truth()
    error = (members - truth).abs().mean(0)
    gaps = (members[:, None] - members).abs().sum((0, 1)) / (2 * 3 * 2)
    rows = area() if by_area else torch.ones(ROWS, dtype=torch.float64)
    expected = ((error - gaps) * point_weights(channels, rows)).mean((1, 2, 3))
    loss = made({"name": "fair_crps", "layout": layout, **options}).loss
    assert isinstance(loss, JointLoss)
    torch.testing.assert_close(loss(members, truth, ALONE), expected, rtol=1e-12, atol=1e-12)


def test_area_and_channel_weights_reach_the_score_of_amplitudes() -> None:
    """The CRPS of |F_k|, waves of both signs counted, as a weighted mean over rows."""
    members, truth = members_and_truth(2)
    waves, wave = (torch.fft.rfft(x, norm="ortho").abs() for x in (members, truth))
    errors = (waves - wave).abs().mean(0) - (waves[0] - waves[1]).abs() / 4
    counts = torch.tensor([1, 2, 2, 2, 1], dtype=torch.float64) / COLUMNS
    rows = point_weights([1.0, 4.0], area())[..., 0] / (2 * ROWS)
    expected = (errors * counts).sum(-1).mul(rows).sum((1, 2))
    options = {"name": "crps", "channel_weights": {"b": 4}}
    both, points = (
        made({**options, "spectral": weight}).loss(members, truth, ALONE) for weight in (0.5, 0.0)
    )
    torch.testing.assert_close(both - points, 0.5 * expected, rtol=1e-12, atol=1e-12)


def test_a_score_of_amplitudes_is_refused_where_there_are_none() -> None:
    loss = {"name": "almost_fair_crps", "spectral": 0.1}
    region = refused(loss, periodic=False)
    assert region == (
        "loss.spectral = 0.1: needs whole circles of longitude, and these fields cover a region; "
        "leave it out"
    )
    present = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    present[0, 0, 0] = False
    assert "needs a value at every point" in refused(loss, present=present)
    series = {
        "loss": loss,
        "model": {"name": "mlp"},
        "data": {"name": "synthetic_series"},
        "train": {"steps": 1},
    }
    chosen = Settings.model_validate(series)
    with pytest.raises(SettingsError, match=r"loss\.spectral = 0\.1: is for fields on a globe"):
        build(chosen, read_source(chosen, ALONE))


def test_weights_reach_the_likelihood() -> None:
    members, truth = members_and_truth(1)
    weights = point_weights([1.0, 4.0], area())
    normal = torch.distributions.Normal(members[0], 0.5)
    expected = -(normal.log_prob(truth) * weights).sum((1, 2, 3))
    loss = made({"name": "gaussian_nll", "sigma": 0.5, "channel_weights": {"b": 4}}).loss
    assert isinstance(loss, SeparableLoss)
    torch.testing.assert_close(loss(members[0], truth), expected, rtol=1e-6, atol=1e-6)


def test_points_without_values_have_no_weight() -> None:
    members, truth = members_and_truth(2)
    present = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    present[1, 1:3, 2:] = False
    options = {"name": "crps", "channel_weights": {"b": 4}}
    loss = made(options, present=present).loss
    assert isinstance(loss, JointLoss)
    weights = (point_weights([1.0, 4.0], area()) * present).flatten()
    errors = (members - truth).abs().mean(0) - (members[0] - members[1]).abs() / 4
    expected = (errors.flatten(1) * weights).sum(1) / weights.sum()
    torch.testing.assert_close(loss(members, truth, ALONE), expected, rtol=1e-12, atol=1e-12)


def test_losses_that_count_every_point_are_refused() -> None:
    present = torch.ones(2, ROWS, COLUMNS, dtype=torch.bool)
    present[0, 0, 0] = False
    with pytest.raises(
        SettingsError, match="'categorical_nll': counts every point, but fields has some without"
    ):
        made({"name": "categorical_nll"}, present=present)


def test_a_channel_that_is_not_there_is_named() -> None:
    message = refused({"name": "crps", "channel_weights": {"t2m": 2, "b": 1, "z": 1}})
    assert message.splitlines() == [
        "loss.channel_weights: no channel 't2m'; the data set has a, b",
        "loss.channel_weights: no channel 'z'; the data set has a, b",
    ]


def test_channel_weights_that_nothing_takes_are_refused() -> None:
    options = {"name": "categorical_nll", "channel_weights": {"a": 2}}
    assert "loss.name = 'categorical_nll' takes no weights" in refused(options)
    nothing = {"name": "crps", "channel_weights": {"a": 0.0, "b": 0.0}}
    with pytest.raises(ValueError, match="channel_weights: every channel has weight 0"):
        made(nothing)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("history", [1, 2])
def test_the_network_knows_the_grid(periodic: bool, history: int) -> None:
    """Vectors turn round where a field is carried over a pole, in every state of the history."""
    parts = made({"name": "crps"}, periodic=periodic, history=history)
    network = parts.posterior.module
    assert isinstance(network, Swin)
    assert hasattr(network, "polar") == periodic
    x = torch.randn(1, 2 * history + 1, ROWS, COLUMNS, dtype=torch.float64)
    facts = {"periodic": periodic, "vector_channels": [1, 3][:history] if periodic else []}
    same = Swin(x.shape[1:], (2, ROWS, COLUMNS), **{k: v for k, v in SWIN.items() if k != "name"},
                **facts).double()  # fmt: skip
    same.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), same(x), rtol=0, atol=0)
    if periodic:
        other = Swin(x.shape[1:], (2, ROWS, COLUMNS),
                     **{k: v for k, v in SWIN.items() if k != "name"}).double()  # fmt: skip
        other.load_state_dict(network.state_dict())
        assert bool((network(x) != other(x)).any())


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"periodic": False}, "model.periodic = False: the data set says True; leave it out"),
        ({"vector_channels": [0]}, "model.vector_channels = [0]: the data set says [1]; leave"),
        ({"vector_channels": []}, "model.vector_channels = []: the data set says [1]; leave"),
    ],
)
def test_contradictions_are_refused(model: dict[str, Any], expected: str) -> None:
    assert expected in refused({"name": "crps"}, model)


def test_what_agrees_may_be_said() -> None:
    made({"name": "crps"}, {"periodic": True, "vector_channels": [1]})
    made({"name": "crps"}, {"periodic": False}, periodic=False)


def test_models_that_do_not_ask_are_not_told() -> None:
    mlp = {"name": "mlp", "hidden": [4]}
    given = settings({"name": "crps"}).model_copy(update={"model": _model(mlp)})
    assert build(given, field_source()).posterior.module(torch.randn(2, 3, 3, 4).double()).shape


def _model(options: dict[str, Any]) -> Any:
    loss, data = {"name": "crps"}, {"name": "era5"}
    whole = {"loss": loss, "model": options, "data": data, "train": {"steps": 1}}
    return Settings.model_validate(whole).model


@pytest.mark.parametrize("key", ["weights", "present", "ranks", "input_shape"])
def test_what_the_program_gives_is_no_setting(key: str) -> None:
    section = {"weights": "loss", "present": "loss", "ranks": "data", "input_shape": "model"}[key]
    whole: dict[str, Any] = settings({"name": "crps"}).model_dump()
    whole[section][key] = [1]
    with pytest.raises(SettingsError, match=rf"here: {section}\.{key}: unknown key"):
        check_choices(Settings.model_validate(whole), "here")


def test_initial_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(77)
    one = made({"name": "crps"}).posterior.state_dict()
    torch.manual_seed(78)
    two = made({"name": "crps"}).posterior.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
