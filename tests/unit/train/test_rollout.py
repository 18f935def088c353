"""Steps of a forecast against steps made by hand, in physical units; keyed observation noise."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS, START_S, STEP_S, field_source
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.losses.base import Loss
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.rollout import Rollout, time_text

SHAPE = (CHANNELS, ROWS, COLUMNS)
CPU = torch.device("cpu")


def rollout_of(history: int = 1, loss: Loss | None = None, *, seed: int = 5) -> Rollout:
    posterior = Gaussian(nn.Linear(1, 1).double(), seed=seed)
    return Rollout(
        Parts(field_source(history=history), posterior, loss or losses.crps(), None), CPU
    )


def starts_at(*steps: int) -> Tensor:
    return START_S + STEP_S * torch.tensor(steps)


def test_steps_add_the_tendency_in_physical_units_and_shift_the_history() -> None:
    rollout = rollout_of(history=2)
    fields, starts = rollout.fields, starts_at(3, 7)
    tendency = torch.randn(2, *SHAPE, dtype=torch.float64)
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return tendency

    first = rollout.history(starts)
    assert first.shape == (2, 2, *SHAPE)
    assert first.dtype == torch.float64
    torch.testing.assert_close(first[1, 0], fields.record.states(torch.tensor([6]))[0].double())
    torch.testing.assert_close(first[1, 1], fields.record.states(torch.tensor([7]))[0].double())

    change = fields.tendency_std[:, None, None] * tendency
    made = [fields.physical(first[:, 0]), fields.physical(first[:, 1])]
    history = first
    for lead in range(3):
        history = rollout.advance(history, starts, lead, 0, network)
        made.append(made[-1] + change)
        torch.testing.assert_close(fields.physical(history[:, 1]), made[-1], rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(fields.physical(history[:, 0]), made[-2], rtol=1e-12, atol=1e-9)

    for lead, x in enumerate(seen):
        assert x.shape == (2, 2 * CHANNELS + FORCING, ROWS, COLUMNS)
        states = [fields.physical(x[:, :CHANNELS]), fields.physical(x[:, CHANNELS:-FORCING])]
        torch.testing.assert_close(states[0], made[lead], rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(states[1], made[lead + 1], rtol=1e-12, atol=1e-9)
        # The forcing is that of the newest state of the input, as in training.
        hours = 6.0 * torch.tensor([3 + lead, 7 + lead])
        assert torch.equal(x[:, -1, 0, 0], hours.double())
    torch.testing.assert_close(first, rollout.history(starts))  # nothing was changed in place


def noisy(sigma: float) -> tuple[Rollout, Callable[[Tensor], Tensor]]:
    """Return a rollout whose network says: no change, give or take sigma."""
    loss = losses.gaussian_nll(variance="predicted", min_sigma=1e-6)
    raw = float(torch.log(torch.expm1(torch.tensor(sigma - 1e-6, dtype=torch.float64))))

    def network(x: Tensor) -> Tensor:
        half = x.new_zeros(len(x), *SHAPE)
        return torch.cat([half, half + raw], 1)

    return rollout_of(loss=loss), network


def epsilon(
    rollout: Rollout, network: Callable[[Tensor], Tensor], starts: Tensor, lead: int, member: int
) -> Tensor:
    """Return the noise (B, C, H, W) of a step in units of the tendency."""
    history = rollout.history(starts)
    change = rollout.advance(history, starts, lead, member, network)[:, -1] - history[:, -1]
    fields = rollout.fields
    return change * (fields.state_std / fields.tendency_std)[:, None, None]


def test_noise_is_that_of_start_member_and_lead_wherever_it_is_made() -> None:
    rollout, network = noisy(0.7)
    together = epsilon(rollout, network, starts_at(2, 5, 9), 1, 3)
    for i, step in enumerate((2, 5, 9)):
        alone = epsilon(rollout, network, starts_at(step), 1, 3)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-12, atol=1e-12)
    keys = [
        epsilon(rollout, network, starts_at(start), lead, member)[0]
        for start in (2, 3)
        for lead in (0, 1)
        for member in (0, 1)
    ]
    for one, other in combinations(keys, 2):
        assert not set(one.flatten().tolist()) & set(other.flatten().tolist())


def test_noise_has_the_predicted_standard_deviation() -> None:
    rollout, network = noisy(0.7)
    drawn = torch.stack(
        [
            epsilon(rollout, network, starts_at(2, 5), lead, m)
            for lead in (0, 1, 2)
            for m in range(40)
        ]
    )  # 5760 numbers: the standard deviation is known to 1 %
    assert float(drawn.std()) == pytest.approx(0.7, rel=0.05)
    assert abs(float(drawn.mean())) < 0.05


def test_other_seeds_make_other_noise() -> None:
    loss = losses.gaussian_nll(sigma=1.0)
    one, two = (
        epsilon(rollout_of(loss=loss, seed=seed), lambda x: x[:, :CHANNELS], starts_at(2), 0, 0)
        for seed in (5, 6)
    )
    assert bool((one != two).all())


def test_a_loss_of_members_adds_no_noise() -> None:
    rollout = rollout_of(loss=losses.fair_crps())
    made = epsilon(rollout, lambda x: torch.zeros(len(x), *SHAPE), starts_at(2, 4), 0, 1)
    assert bool((made == 0).all())


def test_points_without_values_stay_the_mean() -> None:
    """Whatever the network and the noise say there; the others are as they would be."""
    present = torch.ones(SHAPE, dtype=torch.bool)
    present[1, 2, 3] = present[0, :, 1] = False
    loss = losses.gaussian_nll(sigma=0.7)
    posterior = Gaussian(nn.Linear(1, 1).double(), seed=5)
    starts, states = starts_at(4, 6), []
    for mask in (present, None):
        source = field_source(history=2, present=present)
        assert source.fields is not None
        source = replace(source, fields=replace(source.fields, present=mask))
        rollout = Rollout(Parts(source, posterior, loss, None), CPU)
        history = rollout.history(starts)
        assert bool((history[:, :, ~present] == 0).all())
        history = rollout.advance(history, starts, 0, 0, lambda x: x[:, :CHANNELS] + 3)
        states.append(history[:, -1])
    assert bool((states[0][:, ~present] == 0).all())
    assert bool((states[1][:, ~present] != 0).all())
    assert torch.equal(states[0][:, present], states[1][:, present])


def test_states_add_up_in_float32_whatever_the_network_runs_in() -> None:
    """Forty steps of 0.001 from 100 or so, where bfloat16 resolves 0.5."""
    source = field_source()
    assert source.fields is not None
    fields = replace(source.fields, tendency_std=source.fields.state_std)
    posterior = Gaussian(nn.Linear(1, 1).to(torch.bfloat16))
    parts = Parts(replace(source, fields=fields), posterior, losses.crps(), None)
    rollout, starts = Rollout(parts, CPU), starts_at(3)
    first = rollout.history(starts) + 100
    assert first.dtype == torch.float32

    def network(x: Tensor) -> Tensor:
        assert x.dtype == torch.bfloat16
        return torch.full((1, *SHAPE), 1e-3, dtype=torch.bfloat16)

    history = first
    for lead in range(40):
        history = rollout.advance(history, starts, lead, 0, network)
    change = float(torch.tensor(1e-3, dtype=torch.bfloat16)) * 40
    assert history.dtype == torch.float32
    # float32 resolves 8e-6 there; 40 roundings of half of it.
    torch.testing.assert_close(history, first + change, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("offset", "named"),
    [
        (-1, ("no state at 2000-12-31T18:00", "near it 2001-01-01T00:00")),
        (12, ("no state at 2001-01-04T00:00", "near it 2001-01-03T18:00")),
        (2.25, ("no state at 2001-01-01T13:30", "near it 2001-01-01T12:00")),
        (2.75, ("no state at 2001-01-01T16:30", "near it 2001-01-01T18:00")),
    ],
    ids=["before", "behind", "between, early", "between, late"],
)
def test_a_time_that_is_not_there(offset: float, named: tuple[str, ...]) -> None:
    rollout = rollout_of()
    seconds = torch.tensor([START_S, START_S + int(offset * STEP_S)])
    with pytest.raises(ValueError) as caught:
        rollout.states(seconds)
    for part in (*named, "the files have 2001-01-01T00:00 to 2001-01-03T18:00"):
        assert part in str(caught.value)


def test_a_history_that_begins_before_the_files() -> None:
    with pytest.raises(ValueError, match="no state at 2000-12-31T18:00"):
        rollout_of(history=2).history(starts_at(0))


def test_only_fields_are_rolled_out() -> None:
    source = replace(field_source(), fields=None)
    with pytest.raises(ValueError, match=r"fields: forecasts are rolled out .* fields only"):
        Rollout(Parts(source, Gaussian(nn.Linear(1, 1)), losses.crps(), None), CPU)


def test_times_as_text() -> None:
    assert time_text(START_S) == "2001-01-01T00:00"
    assert time_text(torch.tensor(START_S + 90)) == "2001-01-01T00:01:30"
