"""Monte Carlo dropout: its predictive moments and its optimum are known for linear models, and its
masks belong to the sample and, as one likes, to the example.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.bayes.dropout import KeyedDropout, restart_calls
from hpc_bnn.bayes.mc_dropout import BLOCK, Dropout
from hpc_bnn.bayes.noise import Purpose

B, P = 6, 0.3


def numbers(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def network(p: float = P) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 40), nn.Tanh(), nn.Dropout(p), nn.Linear(40, 2)).double()


X = numbers(B, 3)


def made(**options: Any) -> Dropout:
    return Dropout(network(), seed=4, **options)


def test_it_is_known_by_its_name() -> None:
    assert POSTERIORS["dropout"] is Dropout


@pytest.mark.parametrize("masks", ["example", "sample"])
def test_moments_of_a_linear_layer(masks: str) -> None:
    """E = w x + b and Var = p / (1 - p) sum_i w_i^2 x_i^2, within 5 standard errors of n samples:
    sigma / sqrt(n) of a mean and about sqrt(2 / n) sigma^2 of a variance.
    """
    torch.manual_seed(2)
    n, linear = 2000, nn.Linear(30, 1).double()
    x = numbers(2, 30)
    posterior = Dropout(nn.Sequential(nn.Dropout(P), linear), masks=masks, seed=4)
    draws = posterior.predict(x, samples=n)[..., 0]
    mean = (linear(x)[:, 0]).detach()
    variance = P / (1 - P) * (x.square() @ linear.weight.detach().square()[0])
    assert ((draws.mean(0) - mean).abs() <= 5 * (variance / n).sqrt()).all()
    assert ((draws.var(0) - variance).abs() <= 5 * math.sqrt(2 / n) * variance).all()
    # Between examples: masks of their own are independent, common ones give
    # Cov = p / (1 - p) sum_i w_i^2 x_i x'_i.
    covariance = float(torch.cov(draws.T)[0, 1])
    common = P / (1 - P) * float((x[0] * x[1]) @ linear.weight.detach().square()[0])
    error = 5 * float((variance[0] * variance[1] / n).sqrt())
    assert abs(covariance - (common if masks == "sample" else 0.0)) <= error
    assert abs(common) > 2 * error


def test_optimum_of_linear_regression_is_that_of_a_ridge() -> None:
    """E over masks of |y - (x z) w|^2 = |y - X w|^2 + p / (1 - p) w' diag(X'X) w, whose minimum is
    (X'X + p / (1 - p) diag(X'X))^-1 X'y: the gradient vanishes there within 5 standard errors of
    the masks of all steps, and is far from 0 at the least squares.
    """
    x, p, steps = numbers(8, 3), 0.2, 1000
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * numbers(8, seed=2)
    gram = x.T @ x
    ridge = torch.linalg.solve(gram + p / (1 - p) * torch.diag(gram.diag()), x.T @ y)
    least = torch.linalg.solve(gram, x.T @ y)
    linear = nn.Linear(3, 1, bias=False).double()
    posterior = Dropout(nn.Sequential(nn.Dropout(p), linear))
    sizes = []
    for point in (ridge, least):
        linear.weight.data.copy_(point[None])
        gradients = []
        for step in range(steps):
            key = posterior.key(step, (0,))
            with posterior.dropout(key, examples=8, first_example=0):
                error = y - posterior(x, key)[0, :, 0]
            (gradient,) = torch.autograd.grad(error.square().sum(), linear.weight)
            gradients.append(gradient[0])
        rows = torch.stack(gradients)
        sizes.append((rows.mean(0) / (rows.std(0) / math.sqrt(steps))).abs())
    assert (sizes[0] <= 5).all()
    assert float(sizes[1].max()) > 10


@pytest.mark.parametrize("prior_sigma", [0.5, "fan_in"])
def test_complexity_is_the_negative_log_prior(prior_sigma: Any) -> None:
    """Of the weights of linear maps; the gain of a norm has no prior."""
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Dropout(0.5), nn.Linear(4, 2))
    posterior = Dropout(module, prior_sigma=prior_sigma)
    expected = torch.zeros((), dtype=torch.float64)
    for layer in (module[0], module[3]):
        assert isinstance(layer, nn.Linear)
        tau = layer.in_features**-0.5 if prior_sigma == "fan_in" else prior_sigma
        for parameter in (layer.weight, layer.bias):
            density = torch.distributions.Normal(0.0, torch.tensor(tau, dtype=torch.float64))
            expected = expected - density.log_prob(parameter.detach().double()).sum()
    got = posterior.complexity()
    assert got.dtype == torch.float64
    assert torch.allclose(got, expected, rtol=1e-6)
    got.backward()
    tau = 3**-0.5 if prior_sigma == "fan_in" else 0.5
    assert torch.allclose(module[0].weight.grad, module[0].weight / tau**2)
    assert module[1].weight.grad is None


def test_tied_weights_have_their_prior_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight, second.bias = first.weight, first.bias
    tied = Dropout(nn.Sequential(first, nn.Dropout(0.5), second))
    alone = Dropout(nn.Sequential(first, nn.Dropout(0.5)))
    assert torch.equal(tied.complexity(), alone.complexity())
    assert float(Dropout(nn.Sequential(nn.Embedding(3, 2), nn.Dropout(0.5))).complexity()) == 0.0


def test_nothing_is_drawn_but_masks() -> None:
    posterior = made()
    assert posterior.sample(posterior.key(0, range(3))) == {}
    assert posterior.predict(X, samples=3, samples_per_pass=3).shape == (3, B, 2)
    with pytest.raises(ValueError, match=r"samples_per_pass = 2: Dropout draws no weights"):
        posterior.check_samples(4, samples_per_pass=2)
    posterior.check_samples(5, samples_per_pass=1)
    with pytest.raises(ValueError, match=r"to_module: the samples of Dropout are masks"):
        posterior.to_module(0)


@pytest.mark.parametrize("masks", ["example", "sample"])
def test_a_prediction_is_the_same_wherever_it_is_computed(masks: str) -> None:
    posterior = made(masks=masks)
    whole = posterior.predict(X, samples=4)
    assert torch.equal(posterior.predict(X, samples=2, first=2), whole[2:])
    for first, last in ((0, 4), (4, 6), (5, 6)):
        places = range(first, last)
        part = posterior.predict(X[first:last], samples=4, positions=places)
        assert torch.allclose(part, whole[:, first:last], rtol=0, atol=1e-12)
        run = posterior.network(3, positions=list(places))
        for _ in range(2):
            assert torch.allclose(run(X[first:last]), whole[3, first:last], rtol=0, atol=1e-12)
    order = [3, 1, 5, 0]
    part = posterior.predict(X[order], samples=4, positions=order)
    assert torch.allclose(part, whole[:, order], rtol=0, atol=1e-12)
    torch.manual_seed(9)
    assert torch.equal(posterior.predict(X, samples=4), whole)
    assert torch.equal(posterior.network(1)(X), whole[1])


def test_positions_far_from_the_first() -> None:
    """Such as start times, or examples on both sides of what one stream holds."""
    posterior = made()
    places = [BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 17_800_000, 1 << 36]
    x = X[:1].expand(B, 3)
    whole = posterior.predict(x, samples=1, positions=places)[0]
    for i, place in enumerate(places):
        alone = posterior.predict(x[:1], samples=1, positions=[place])[0]
        assert torch.allclose(alone[0], whole[i], rtol=0, atol=1e-12)
    distances = torch.cdist(whole, whole)
    assert float((distances + torch.eye(B)).min()) > 1e-3


def test_masks_are_of_the_example_or_of_the_whole_sample() -> None:
    same = X[:1].expand(B, 3)
    for masks in ("example", "sample"):
        posterior = made(masks=masks)
        members = posterior.predict(same, samples=3)
        key = posterior.key(2, (1,))
        with posterior.dropout(key, examples=B, first_example=0):
            trained = posterior(same, key)
        for outputs in (members[0], trained[0]):
            equal = torch.allclose(outputs, outputs[:1].expand_as(outputs), rtol=0, atol=1e-12)
            assert equal == (masks == "sample")
        assert not torch.allclose(members[0], members[1])
        assert not torch.allclose(members[0], trained[0])  # training has masks of its own


@pytest.mark.parametrize("masks", ["example", "sample"])
def test_each_application_in_a_pass_drops_the_same(masks: str) -> None:
    """As the steps of a rollout do, in training and in prediction."""
    posterior = made(masks=masks)
    key = posterior.key(2, (1,))
    with posterior.dropout(key, examples=B, first_example=B):
        first, second = (posterior.apply_weights(X, {}) for _ in range(2))
    assert torch.equal(first, second)
    with posterior.dropout(posterior.key(3, (1,)), examples=B, first_example=B):
        assert not torch.allclose(posterior.apply_weights(X, {}), first)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    restart_calls()
    assert torch.equal(torch.rand(3), expected)  # outside of a pass torch's generator is left alone


def test_prediction_drops_what_training_drops() -> None:
    """Functions that look at ``self.training`` too, but no layer that is held back."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held_back, self.last = nn.Dropout(0.9), nn.Dropout(0.4)
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = functional.dropout(self.held_back(x), 0.3, self.training)
            if self.training:
                x = functional.dropout(x, 0.3)
            return self.linear(self.last(x))

    module = Network().double()
    module.held_back.eval()
    posterior = Dropout(module)
    modes = [layer.training for layer in module.modules()]
    calls = []
    original = KeyedDropout._drop

    def note(
        self: KeyedDropout, x: Tensor, p: float = 0.5, training: bool = True, *more: Any, **m: Any
    ) -> Tensor:
        calls.append((p, training))
        return original(self, x, p, training, *more, **m)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyedDropout, "_drop", note)
        key = posterior.key(0, (0,))
        with posterior.dropout(key, examples=B, first_example=0):
            posterior(X, key)
        in_training = list(calls)
        for switched_off in (False, True):
            calls.clear()
            if switched_off:
                module.eval()
                modes = [False] * len(modes)
            posterior.predict(X, samples=1, check=False)
            assert calls == in_training == [(0.9, False), (0.3, True), (0.3, True), (0.4, True)]
            assert [layer.training for layer in module.modules()] == modes


def test_the_network_is_proved_pure_with_its_dropout() -> None:
    posterior = made()
    key = posterior.key(0, (2,), Purpose.PREDICTION)
    assert posterior.check(key, X, gradients=False) == []

    class Counter(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    impure = Dropout(nn.Sequential(nn.Linear(3, 2), nn.Dropout(P), Counter()).double())
    with pytest.raises(ValueError, match="what an earlier call left behind"):
        impure.predict(X, samples=1)


def test_p_is_set_in_all_layers() -> None:
    attention = nn.MultiheadAttention(4, 2, dropout=0.1)
    module = nn.Sequential(nn.Dropout(0.0), nn.Dropout2d(0.5), attention)
    Dropout(module, p=0.25)
    assert [module[0].p, module[1].p, attention.dropout] == [0.25] * 3


BAD: dict[str, tuple[nn.Module, dict[str, Any]]] = {
    r"Sequential has no dropout layer with p > 0": (nn.Sequential(nn.Linear(3, 2)), {}),
    r"no dropout layer with p > 0.*set p \(posterior\.p\)": (
        nn.Sequential(nn.Dropout(0.0), nn.Linear(3, 2)),
        {},
    ),
    r"posterior\.p = 1\.0: must be": (network(), {"p": 1.0}),
    r"posterior\.p = 0: must be": (network(), {"p": 0}),
    r"posterior\.masks = 'batch': expected one of": (network(), {"masks": "batch"}),
    r"posterior\.prior_sigma = 0: must be": (network(), {"prior_sigma": 0}),
    r"BatchNorm1d: its running statistics": (
        nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)),
        {},
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_is_refused(message: str) -> None:
    module, options = BAD[message]
    with pytest.raises(ValueError, match=message):
        Dropout(module, **options)


def test_positions_must_be_those_of_the_examples() -> None:
    with pytest.raises(ValueError, match="2 positions for 6 examples"):
        made().predict(X, samples=1, positions=[0, 1])
    with pytest.raises(ValueError, match="2 positions for 6 examples"):
        made().network(0, positions=[0, 1])(X)
