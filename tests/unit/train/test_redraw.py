"""Forecasts whose weight sample is kept, or drawn anew at every step: which network steps a member,
and how the spread grows.
"""

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, ROWS, START_S, STEP_S, field_source
from torch import Tensor, nn
from torch.func import functional_call
from toy_weather import toy_settings, toy_source, toy_trained, write_small_toy

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.mc_dropout import REDRAWN, Dropout
from hpc_bnn.bayes.noise import Key, Purpose
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import CONFIGS, Settings, SettingsError, load_settings
from hpc_bnn.config.forecast_settings import Redraw
from hpc_bnn.train.run.build import Parts, check_choices
from hpc_bnn.train.score.rollout import Rollout

SHAPE = (CHANNELS, ROWS, COLUMNS)
CPU = torch.device("cpu")
STARTS = START_S + STEP_S * torch.tensor([3, 7])


class Change(nn.Module):
    """The same change at every point, whatever the state is: a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.change[..., None, None].expand(len(x), *SHAPE)


def spread(redraw: Redraw, *, steps: int, members: int) -> list[float]:
    """Return the standard deviation over members after each step, in units of the tendency."""
    posterior = Gaussian(Change(), initial_sigma=0.3, random=["change"], seed=2)
    rollout = Rollout(Parts(field_source(), posterior, losses.crps(), None), CPU, redraw=redraw)
    fields = rollout.fields
    finals = torch.empty(steps, members, dtype=torch.float64)
    first = rollout.history(STARTS[:1])
    for member in range(members):
        networks, history = rollout.networks(member, STARTS[:1]), first
        for lead in range(steps):
            history = rollout.advance(history, STARTS[:1], lead, member, networks(lead))
            finals[lead, member] = (history - first)[0, 0, 0, 0, 0]
    ratio = float(fields.tendency_std[0] / fields.state_std[0])
    return (finals.std(1) / ratio).tolist()


def test_a_kept_sample_spreads_as_the_lead_time_and_one_drawn_anew_as_its_root() -> None:
    """Var = n^2 sigma^2 of a bias that is kept for n steps, n sigma^2 of one drawn anew.

    2000 members: a standard deviation is known to 1.6 %, five of which are 8 %.
    """
    kept = spread("never", steps=5, members=2000)
    anew = spread("each_step", steps=5, members=2000)
    for n in range(1, 6):
        assert kept[n - 1] == pytest.approx(n * 0.3, rel=0.08)
        assert anew[n - 1] == pytest.approx(math.sqrt(n) * 0.3, rel=0.08)
    assert kept[0] == anew[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


def test_each_step_is_that_of_the_sample_of_member_and_lead(folder: Path) -> None:
    """By hand: the weights of Key(seed, lead, member, PREDICTION), in the network as it is."""
    changes: dict[str, Any] = {"forecast": {"redraw": "each_step"}}
    source = toy_source(folder)
    trained = toy_trained(folder, source, **changes)
    rollout = Rollout(trained.parts, CPU, redraw=trained.settings.forecast.redraw)
    posterior, fields = trained.parts.posterior, rollout.fields
    starts = fields.test_times[:2]
    ratio = (fields.tendency_std / fields.state_std)[:, None, None]
    for member in (0, 2):
        networks, history = rollout.networks(member, starts), rollout.history(starts)
        state = history[:, -1]
        for lead in range(3):
            history = rollout.advance(history, starts, lead, member, networks(lead))
            key = Key(posterior.seed, lead, (member,), Purpose.PREDICTION)
            weights = {name: w[0] for name, w in posterior.sample(key).items()}
            forcing = fields.record.forcing(starts + lead * rollout.step_s).double()
            x = torch.cat([state, forcing], 1)
            with torch.no_grad():
                state = state + ratio * functional_call(posterior.module, weights, (x,))
            torch.testing.assert_close(history[:, -1], state, rtol=1e-12, atol=1e-12)


def dropout(masks: Any) -> Dropout:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.4), nn.Linear(64, 3)).double()
    return Dropout(layers, masks=masks, seed=4)


def gaussian() -> Gaussian:
    torch.manual_seed(1)
    return Gaussian(nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 3)).double(), seed=4)


@pytest.mark.parametrize("make", [gaussian, lambda: dropout("example"), lambda: dropout("sample")])
def test_all_draws_of_all_members_differ(make: Any) -> None:
    posterior: Posterior = make()
    x, positions = torch.randn(3, 6, dtype=torch.float64), [17_000_000, 17_000_012, 17_000_300]
    outputs = [
        posterior.network(member, positions=positions, redraw=redraw)(x)
        for member, redraw in product(range(3), range(4))
    ]
    for i, one in enumerate(outputs):
        assert all(bool((one != other).all()) for other in outputs[:i])
    assert torch.equal(outputs[5], posterior.network(1, positions=positions, redraw=1)(x))
    first = posterior.predict(x, samples=1, first=2, positions=positions)[0]
    torch.testing.assert_close(outputs[8], first, rtol=1e-12, atol=1e-12)
    alone = posterior.network(2, positions=positions[1:2], redraw=3)(x[1:2])
    torch.testing.assert_close(alone[0], outputs[11][1], rtol=1e-12, atol=1e-12)


def test_masks_of_members_that_could_meet_others_are_refused() -> None:
    """Their streams are those of later draws of the first members."""
    posterior = dropout("sample")
    x = torch.randn(2, 6, dtype=torch.float64)
    posterior.network(REDRAWN)(x)
    with pytest.raises(ValueError, match=f"weight sample {REDRAWN}: masks are drawn anew for"):
        posterior.network(REDRAWN, redraw=1)(x)


def test_what_has_nothing_to_draw_anew_is_refused() -> None:
    with pytest.raises(SettingsError) as caught:
        check_choices(
            load_settings(CONFIGS / "vit_digits.yaml", ["forecast.redraw=each_step"]), "x"
        )
    (problem,) = caught.value.problems
    assert problem == (
        "x: forecast.redraw = 'each_step': data.name = 'digits' has no states to step forward; "
        "leave it out, or choose a data set of fields"
    )


@pytest.mark.parametrize(
    ("name", "refused"),
    [("ensemble", True), ("sghmc", True), ("swag", False), ("dropout", False), ("rank1", False)],
)
def test_methods_that_draw(folder: Path, name: str, refused: bool) -> None:
    content = toy_settings(folder, forecast={"redraw": "each_step"})
    content["posterior"] = {"name": name, "samples": 2}
    problems: tuple[str, ...] = ()
    try:
        check_choices(Settings.model_validate(content), "x")
    except SettingsError as error:
        problems = error.problems
    problem = (
        f"x: forecast.redraw = 'each_step': the samples of posterior.name = '{name}' are members "
        "that were trained, so there are no others to draw; leave it out"
    )
    assert [p for p in problems if "forecast.redraw" in p] == ([problem] if refused else [])
