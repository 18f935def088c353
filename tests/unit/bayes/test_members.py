"""Members: what they start from, what they are, what a process holds of them."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.members import Members
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.bayes.rows import Rows


def network(seed: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 2))


def members(samples: int = 4, **options: object) -> Members:
    return Members(network(), samples=samples, seed=7, **options)


def rows(posterior: Members) -> dict[str, Tensor]:
    posterior.initialise()
    return {name: row.detach() for name, row in posterior.rows.items()}


X = torch.linspace(-1, 1, 15).view(5, 3)


def test_initial_rows_are_keyed_normals_with_the_moments_of_each_tensor() -> None:
    started, given = rows(members()), dict(network().named_parameters())
    offset = 0
    for name, w in given.items():
        w, mean, std = w.detach(), w.double().mean(), w.double().std(correction=0)
        for k, row in enumerate(started[name.replace(".", "/")]):
            eps = normals(Stream(7, Purpose.INITIAL, 0, k), w.shape, offset=offset)
            expected = mean + std * eps.double() if std > 0 else w
            assert torch.equal(row, expected.float()), name
        offset += w.numel()


def test_constant_tensors_stay_what_they_are() -> None:
    started = rows(members())
    assert torch.equal(started["1/weight"], torch.ones(4, 40))
    assert torch.equal(started["1/bias"], torch.zeros(4, 40))
    double = network().double()
    nn.init.constant_(double[3].bias, 0.1)
    held = Members(double, samples=3)
    assert torch.equal(rows(held)["3/bias"], torch.full((3, 2), 0.1, dtype=torch.float64))


def test_all_may_start_near_the_given_weights() -> None:
    started, given = rows(members(initial_spread=0.1)), network()
    for name, w in given.named_parameters():
        offsets = started[name.replace(".", "/")].double() - w.detach().double()
        rms = w.detach().double().square().mean().sqrt()
        if rms == 0:
            assert not offsets.any()
        elif w.numel() > 40:
            assert float(offsets.std() / rms) == pytest.approx(
                0.1, rel=5 / math.sqrt(8 * w.numel())
            )
        first, second = offsets[:2]
        assert rms == 0 or not torch.equal(first, second)


def test_a_member_is_the_same_whoever_holds_it() -> None:
    whole = rows(members(6))
    for own in (range(2, 5), range(5, 6)):
        held = members(6)
        held.hold(own)
        for name, row in rows(held).items():
            assert torch.equal(row, whole[name][own.start : own.stop])
        held.initialise()  # once only
        with torch.no_grad():
            held.rows["0/bias"].zero_()
        assert not rows(held)["0/bias"].any()


def test_rows_that_are_not_held_are_never_made() -> None:
    held = Members(nn.Linear(1000, 1000), samples=1_000_000)  # 4 TB
    held.hold(range(3, 5))
    assert held.rows["weight"].shape == (2, 1000, 1000)
    assert rows(held)["weight"].isfinite().all()


def test_what_is_read_too_early_is_no_weight() -> None:
    held = members()
    assert all(row.isnan().all() for row in held.rows.values())
    assert all(
        not name.startswith("rows") or row.isfinite().all()
        for name, row in held.state_dict().items()
    )


def test_each_member_is_the_network_with_its_row() -> None:
    held = members()
    outputs = held.predict(X, samples=4)
    assert torch.equal(held.predict(X, samples=2, first=1), outputs[1:3])
    assert torch.allclose(held.predict(X, samples=4, samples_per_pass=3), outputs, atol=1e-6)
    for k in range(4):
        alone = network()
        alone.load_state_dict({n.replace("/", "."): row[k] for n, row in rows(held).items()})
        assert torch.equal(alone(X), outputs[k])
        assert torch.equal(held.network(k)(X), outputs[k])


def test_a_pass_moves_the_rows_of_its_samples_only() -> None:
    for samples in ((1,), (1, 2), (0, 3), (0, 1, 2, 3)):
        held = members()
        held(X, held.key(0, samples)).square().sum().backward()
        grad = held.rows["0/weight"].grad
        assert grad is not None
        assert [bool(row.any()) for row in grad] == [k in samples for k in range(4)]
        assert all(p.grad is None for p in held.module.parameters())


def test_complexity_is_the_mean_over_the_members_held() -> None:
    held = Members(network().double(), samples=6, prior_sigma=0.5)
    held.hold(range(2, 6))
    total = held.complexity()
    flat = torch.cat([row.flatten(1) for row in rows(held).values()], 1)
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 0.5)
    assert total.item() == pytest.approx(float(-prior.log_prob(flat).sum(1).mean()), rel=1e-12)
    total.backward()
    assert torch.allclose(held.rows["0/bias"].grad, rows(held)["0/bias"] / 0.25 / 4)
    layers = Members(network(), samples=2, prior_sigma="fan_in")
    assert layers.taus == pytest.approx([3**-0.5] * 2 + [40**-0.5] * 4)


def test_frozen_parameters_are_shared_and_tied_ones_have_one_row() -> None:
    given = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    given[1].weight = given[0].weight
    given[2].requires_grad_(False)
    held = Members(given, samples=2)
    assert list(held.per_sample()) == ["rows.0/weight", "rows.0/bias", "rows.1/bias"]
    output = held.predict(X, samples=2)
    started = rows(held)
    first, last = given[2].weight, given[2].bias
    for k in range(2):
        hidden = X @ started["0/weight"][k].T + started["0/bias"][k]
        hidden = hidden @ started["0/weight"][k].T + started["1/bias"][k]
        assert torch.allclose(output[k], hidden @ first.T + last, atol=1e-6)


def test_half_precision_and_other_types_are_kept() -> None:
    held = Members(network().to(torch.bfloat16), samples=2)
    wide = Members(network(), samples=2)
    for name, row in rows(held).items():
        assert row.dtype == torch.bfloat16
        assert torch.allclose(row.float(), rows(wide)[name], atol=0.02)
    late = Members(network(), samples=2).to(torch.float64)
    assert all(row.dtype == torch.float64 and row.isfinite().all() for row in rows(late).values())


def test_a_copy_starts_by_itself_and_state_goes_round() -> None:
    held = members()
    twin = copy.deepcopy(held)
    assert all(torch.equal(rows(twin)[name], row) for name, row in rows(held).items())
    other = Members(network(2), samples=4, seed=9)
    other.load_state_dict(held.state_dict())
    assert all(torch.equal(rows(other)[name], row) for name, row in rows(held).items())
    held.hold(range(1, 3))
    saved = held.saved()["rows.0/bias"]
    assert isinstance(saved, Rows)
    assert saved.samples == range(1, 3)


def test_a_parameter_of_one_number_has_a_row_of_one_number() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(3, 2), nn.Parameter(torch.tensor(0.7))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.layer(x)

    torch.manual_seed(1)
    held = Members(Scaled(), samples=4, initial_spread=0.1)
    weights = rows(held)
    assert weights["scale"].shape == (4,)
    assert len(weights["scale"].unique()) == 4
    outputs = held.apply_weights(X, held.sample(held.key(0, range(4))))
    for k, output in enumerate(outputs):
        layer = X @ weights["layer/weight"][k].T + weights["layer/bias"][k]
        assert torch.allclose(output, weights["scale"][k] * layer)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"posterior\.samples = 0: must be at least 1"):
        members(0)
    with pytest.raises(ValueError, match=r"posterior\.initial_spread = 0\.0: must be a positive"):
        members(initial_spread=0.0)
    with pytest.raises(ValueError, match="BatchNorm1d: its running statistics"):
        Members(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), samples=2)
    with pytest.raises(ValueError, match="Linear has no parameter that is trained"):
        Members(nn.Linear(3, 3).requires_grad_(False), samples=2)
    constant = nn.Linear(3, 3)
    nn.init.zeros_(constant.weight)
    nn.init.ones_(constant.bias)
    with pytest.raises(ValueError, match="every weight of Linear is constant"):
        Members(constant, samples=2)
    assert Members(constant, samples=2, initial_spread=0.1).members == 2
    with pytest.raises(
        ValueError, match=r"samples = 2, from 3 on: .* 4 weight samples .* at most 1"
    ):
        members().predict(X, samples=2, first=3)
    part = members()
    part.hold(range(2))
    with pytest.raises(ValueError, match=r"weight samples 2 to 2: .* the members 0 to 1 of 4"):
        part.network(2)
