"""The Gaussian posterior around modules of all kinds: means, drawn weights, gradients, state."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hpc_bnn.bayes import POSTERIORS, Gaussian, noise
from hpc_bnn.bayes.noise import Purpose, Stream

# torch has no vmap rule for its attention kernels and says so.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return out


class Tied(nn.Module):
    """Input and output projection share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.decode(torch.tanh(self.encode(x)))
        return out


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(8, 6, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.memory(x)[0]
        return out


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.LayerNorm(16), nn.Linear(16, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
    )


# module, shape of a batch, patterns of random weights, whether vmap knows it
MODULES = {
    "mlp": (mlp, (5, 8), None, True),
    "convolutions": (convolutions, (5, 2, 6, 6), None, True),
    "attention": (Attention, (5, 4, 8), None, True),
    "tied": (Tied, (5, 8), None, True),
    "recurrent": (Recurrent, (5, 4, 8), ["memory.*"], False),
}


def build(name: str, **options: object) -> tuple[Gaussian, Tensor, bool]:
    """Return a posterior over one of the modules, a batch, and whether vmap knows it."""
    torch.manual_seed(0)
    make, shape, patterns, vectorised = MODULES[name]
    options = {"initial_sigma": 0.3, "seed": 11, "random": patterns, **options}
    return Gaussian(make(), **options), torch.randn(shape), vectorised


def weights_of(posterior: Gaussian, step: int, sample: int) -> dict[str, Tensor]:
    """Return the weights of one sample by plain autograd from the definition of the noise."""
    stream, offset, weights = Stream(posterior.seed, Purpose.WEIGHTS, step, sample), 0, {}
    for name in posterior.names:
        mu = posterior.module.get_parameter(name)
        eps = noise.normals(stream, mu.shape, offset=offset).to(mu.dtype)
        weights[name] = mu + posterior.log_sigma[name.replace(".", "/")].exp() * eps
        offset += mu.numel()
    return weights


def gradients(posterior: Gaussian, loss: Tensor) -> dict[str, Tensor]:
    named = dict(posterior.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=0, atol=tolerance * largest), name


def test_parameters_of_the_module_are_the_means() -> None:
    network = mlp()
    before = copy.deepcopy(network.state_dict())
    posterior = Gaussian(network, initial_sigma=0.07)
    assert posterior.module is network
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    held = {id(p) for p in posterior.parameters()}
    assert {id(p) for p in network.parameters()} < held
    assert posterior.names == ("0.weight", "0.bias", "3.weight", "3.bias")
    assert len(held) == len(list(network.parameters())) + len(posterior.names)
    for name in posterior.names:
        log_sigma = posterior.log_sigma[name.replace(".", "/")]
        assert log_sigma.shape == network.get_parameter(name).shape
        assert torch.allclose(log_sigma, torch.tensor(math.log(0.07)))


def test_registry_makes_it_by_name() -> None:
    assert POSTERIORS["gaussian"] is Gaussian


@pytest.mark.parametrize("key", ["prior_sigma", "initial_sigma", "temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan, "wide"])
def test_scales_that_are_not_positive_are_refused(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"posterior\.{key} = .*positive number"):
        Gaussian(mlp(), **{key: value})


def test_batch_norm_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="1 is a BatchNorm1d"):
        Gaussian(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_gradients_are_those_of_plain_autograd(name: str) -> None:
    """Means over samples; forward of all samples first, so that no noise buffer can be shared."""
    posterior, x, _ = build(name)
    posterior.double()
    x, samples = x.double(), (0, 1, 5)
    got = torch.cat([posterior(x, posterior.key(4, (s,))) for s in samples])
    expected = torch.stack(
        [functional_call(posterior.module, weights_of(posterior, 4, s), (x,)) for s in samples]
    )
    assert torch.allclose(got, expected, rtol=0, atol=1e-12)
    assert not torch.allclose(got[0], got[1], atol=1e-2)
    assert_same(
        gradients(posterior, got.pow(2).mean()), gradients(posterior, expected.pow(2).mean()), 1e-12
    )


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", [name for name, module in MODULES.items() if module[3]])
def test_one_pass_of_many_samples_equals_the_loop(name: str, keep: bool, antithetic: bool) -> None:
    posterior, x, _ = build(name, keep_noise=keep, antithetic=antithetic)
    samples = (2, 3, 4, 5)
    together = posterior(x, posterior.key(1, samples))
    loop = [posterior(x, posterior.key(1, (s,))) for s in samples]
    assert torch.allclose(together, torch.cat(loop), rtol=0, atol=1e-5)
    one_by_one = [gradients(posterior, out.pow(2).mean()) for out in loop]
    mean = {key: sum(g[key] for g in one_by_one) / len(samples) for key in one_by_one[0]}
    assert_same(gradients(posterior, together.pow(2).mean()), mean, 1e-5)


def test_gradient_of_a_tied_weight_is_the_sum_over_its_uses() -> None:
    posterior, x, _ = build("tied")
    assert posterior.names == ("encode.weight",)
    together = gradients(posterior, posterior(x, posterior.key(0, (0,))).pow(2).sum())
    weight = weights_of(posterior, 0, 0)["encode.weight"]
    loss = (torch.tanh(x @ weight.T) @ weight.T).pow(2).sum()
    assert_same(together, gradients(posterior, loss), 1e-5)


def test_recurrent_weights_are_drawn_and_the_module_keeps_its_own() -> None:
    """nn.LSTM holds a second list of its weights, which a replacement of attributes can miss."""
    posterior, x, _ = build("recurrent")
    twin = Recurrent()
    twin.load_state_dict({n: w.detach() for n, w in weights_of(posterior, 0, 3).items()})
    before = posterior.module(x)
    assert torch.allclose(posterior(x, posterior.key(0, (3,)))[0], twin(x), atol=1e-6)
    assert torch.equal(posterior.module(x), before)


def test_views_give_every_sample_its_own_batch() -> None:
    posterior, x, _ = build("mlp")
    views = torch.stack([x, 2 * x, x - 1])
    together = posterior(views, posterior.key(0, (0, 1, 2)), views=True)
    for s, view in enumerate(views):
        alone = posterior(view.unsqueeze(0), posterior.key(0, (s,)), views=True)
        assert torch.equal(alone, posterior(view, posterior.key(0, (s,))))
        assert torch.allclose(together[s], alone[0], atol=1e-6)


def test_noise_of_a_tensor_starts_where_the_one_before_ended() -> None:
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    for layer in network:
        nn.init.zeros_(layer.weight)
    posterior = Gaussian(network, initial_sigma=1.0, seed=2)
    weights = posterior.sample(posterior.key(7, (4,)))
    expected = noise.normals(Stream(2, Purpose.WEIGHTS, 7, 4), (18,))
    assert torch.allclose(torch.cat([w.flatten() for w in weights.values()]), expected, atol=1e-6)


def test_double_precision_and_copies_after_construction_are_followed() -> None:
    posterior, x, _ = build("mlp")
    single = posterior(x, posterior.key(0, (0,)))
    twin = copy.deepcopy(posterior).double()
    double = twin(x.double(), twin.key(0, (0,)))
    assert double.dtype == torch.float64
    assert torch.allclose(double.float(), single, atol=1e-5)
    with torch.no_grad():
        twin.module.get_parameter("0.weight").add_(1.0)
    assert not torch.allclose(twin(x.double(), twin.key(0, (0,))), double, atol=1e-2)
    assert torch.equal(posterior(x, posterior.key(0, (0,))), single)


def test_state_dict_round_trip() -> None:
    posterior, x, _ = build("attention")
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = posterior.state_dict()
    assert "module.attention.in_proj_weight" in state
    assert "log_sigma.attention/in_proj_weight" in state
    torch.manual_seed(99)
    other = Gaussian(Attention(), seed=11)
    other.load_state_dict(state)
    draws = posterior.key(3, (1, 2))
    assert torch.equal(other(x, draws), posterior(x, draws))
    # The network alone stays a network: its own state holds the means and nothing else.
    Attention().load_state_dict(posterior.module.state_dict())


# Prediction


def test_prediction_is_the_same_network_whenever_it_is_asked_for() -> None:
    posterior, x, _ = build("attention")
    whole = posterior.predict(x, samples=7)
    assert whole.shape == (7, *x.shape) and not whole.requires_grad
    assert torch.equal(posterior.predict(x, samples=3, first=4), whole[4:])
    for samples_per_pass in (2, 3, 7, 20):
        batched = posterior.predict(x, samples=7, samples_per_pass=samples_per_pass)
        assert torch.allclose(batched, whole, rtol=0, atol=1e-5)
    assert torch.equal(posterior.predict(x[:2], samples=7), whole[:, :2])


def test_prediction_is_by_the_prediction_stream() -> None:
    posterior, x, _ = build("mlp")
    got = posterior.predict(x, samples=2, first=1)
    expected = posterior(x, posterior.key(0, (1, 2), Purpose.PREDICTION))
    assert torch.allclose(got, expected, atol=1e-6)
    training = posterior(x, posterior.key(0, (1, 2)))
    assert not torch.allclose(got, training, atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_prediction_runs_in_evaluation_mode_and_restores_every_mode(training: bool) -> None:
    seen: list[bool] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(self.training)
            return x

    network = nn.Sequential(nn.Linear(8, 8), Watch(), nn.Dropout(0.9), nn.Sequential(nn.ReLU()))
    posterior = Gaussian(network).train(training)
    network[3].eval()  # a part that is held in evaluation mode stays there
    before = {name: layer.training for name, layer in posterior.named_modules()}
    out = posterior.predict(torch.ones(2, 8), samples=3, check=False)
    assert seen == [False] * 3
    assert torch.equal(out[:, 0], out[:, 1])  # no dropout
    assert {name: layer.training for name, layer in posterior.named_modules()} == before


def test_prediction_restores_the_mode_after_an_error() -> None:
    posterior, x, _ = build("mlp")
    with pytest.raises(RuntimeError):
        posterior.predict(x[:, :3], samples=2)
    assert all(layer.training for layer in posterior.modules())


@pytest.mark.parametrize("arguments", [(0, 1), (-1, 1), (1, 0)])
def test_prediction_of_nothing_is_refused(arguments: tuple[int, int]) -> None:
    posterior, x, _ = build("mlp")
    samples, samples_per_pass = arguments
    with pytest.raises(ValueError, match=f"samples = {samples}, samples_per_pass"):
        posterior.predict(x, samples=samples, samples_per_pass=samples_per_pass)


def test_members_of_a_mirrored_pair_average_to_the_mean_network() -> None:
    linear = nn.Linear(8, 3)
    posterior = Gaussian(linear, initial_sigma=0.5, antithetic=True)
    x = torch.randn(5, 8)
    members = posterior.predict(x, samples=6)
    means = members.reshape(3, 2, 5, 3).mean(1)
    assert torch.allclose(means, linear(x).expand(3, -1, -1), atol=1e-5)
    assert not torch.allclose(members[0], members[2], atol=1e-2)
