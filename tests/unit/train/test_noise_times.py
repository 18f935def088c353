"""Forecasts have noise of their own for each start time, to the second."""

from itertools import combinations
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, ROWS, START_S, field_source
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.mc_dropout import Dropout
from hpc_bnn.bayes.noise import Purpose, Stream, normals, uniforms
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.data.source import Fields
from hpc_bnn.fields.perturb.perturbation import Perturbation
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.bands import HeldForecasts
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.verify.climatology import Climatology

STARTS = START_S + torch.tensor([0, 1, 60, 1800, 3599, 3600])
HOUR = 978_307_200 // 3600 + 17_259_888  # START_S, in hours since the year 0001
HISTORY = torch.zeros(len(STARTS), 1, CHANNELS, ROWS, COLUMNS, dtype=torch.float64)
CPU = torch.device("cpu")
SHAPE = (CHANNELS, ROWS, COLUMNS)


def fields() -> Fields:
    made = field_source().fields
    assert made is not None
    return made


def rollout_of(posterior: Posterior, **parts: Any) -> Rollout:
    noisy = losses.gaussian_nll(sigma=1.0)
    return Rollout(Parts(field_source(), posterior, noisy, None, **parts), CPU)


def gaussian() -> Posterior:
    return Gaussian(nn.Linear(1, 1).double(), seed=5)


def share_nothing(drawn: Tensor) -> bool:
    numbers = [set(of_one.flatten().tolist()) for of_one in drawn]
    return not any(one & other for one, other in combinations(numbers, 2))


def test_observations() -> None:
    rollout = rollout_of(gaussian())

    def steps(starts: Tensor, lead: int) -> Tensor:
        history = HISTORY[: len(starts)]
        return rollout.advance(history, starts, lead, 2, lambda x: x[:, :CHANNELS])[:, -1]

    assert share_nothing(torch.cat([steps(STARTS, lead) for lead in range(3)]))
    torch.testing.assert_close(steps(STARTS[3:4], 1)[0], steps(STARTS, 1)[3], rtol=0, atol=0)
    of_hours = Stream(5, Purpose.OBSERVATION, HOUR, 2)
    ratio = (rollout.fields.tendency_std / rollout.fields.state_std)[:, None, None]
    noise = normals(of_hours, SHAPE, offset=CHANNELS * ROWS * COLUMNS)
    torch.testing.assert_close(steps(STARTS[:1], 1)[0], ratio * noise, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "spherical"])
def test_perturbations(name: str) -> None:
    made = field_source(rows=12, columns=24).fields
    assert made is not None
    options = {"length_km": 4000.0} if name == "spherical" else {}
    perturbation = Perturbation(made, name=name, scale=1.0, unit="state", options=options)
    rollout = rollout_of(gaussian(), perturbation=perturbation)
    history = torch.zeros(len(STARTS), 1, CHANNELS, 12, 24, dtype=torch.float64)
    drawn = rollout.first(history, STARTS, 2)
    assert share_nothing(drawn)
    alone = rollout.first(history[:1], STARTS[3:4], 2)
    torch.testing.assert_close(alone[0], drawn[3], rtol=1e-12, atol=1e-12)
    of_hours = [Stream(5, Purpose.PERTURBATION, HOUR + hour, 2) for hour in range(2)]
    whole = perturbation.draw(of_hours, history)
    torch.testing.assert_close(drawn[[0, -1]], whole, rtol=1e-12, atol=1e-12)


def test_masks() -> None:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 1, bias=False)).double()
    posterior = Dropout(layers, seed=4)
    x = torch.randn(1, 256, dtype=torch.float64).expand(len(STARTS), -1)
    drawn = rollout_of(posterior).networks(0, STARTS)(0)(x)
    assert share_nothing(drawn)
    whole = posterior.network(0, positions=[HOUR, HOUR + 1])(x[:2])
    torch.testing.assert_close(drawn[[0, -1]], whole, rtol=1e-12, atol=1e-12)


def test_ties_of_ranks() -> None:
    states = HISTORY[:, 0]
    climatology = Climatology.__new__(Climatology)  # no tie depends on it
    held = HeldForecasts(fields(), climatology, CPU, [states], states, states, STARTS)
    assert share_nothing(held._ties(1, slice(0, ROWS)))
    first = uniforms(
        Stream(0, Purpose.OBSERVATION, START_S // 3600), (2, COLUMNS), offset=4 * COLUMNS
    )
    torch.testing.assert_close(held._ties(1, slice(1, 3))[0], first, rtol=0, atol=0)


def test_all_times_of_the_calendar_have_keys() -> None:
    first, last = -62_135_596_800, 253_402_300_799  # 0001-01-01T00:00:00, 9999-12-31T23:59:59
    rollout = rollout_of(gaussian())
    starts = torch.tensor([first, last])
    history = HISTORY[:2]
    made = rollout.advance(history, starts, 0, 0, lambda x: x[:, :CHANNELS])
    assert share_nothing(made)
    layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(256, 1, bias=False)).double()
    masked = rollout_of(Dropout(layers, seed=4)).networks(0, starts)(0)
    assert share_nothing(masked(torch.randn(1, 256, dtype=torch.float64).expand(2, -1)))
