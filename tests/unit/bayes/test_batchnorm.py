"""BatchNorm: refused as it is, exact where it is frozen, replaced by GroupNorm with its weights."""

import copy

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.bayes.batchnorm import FrozenBatchNorm
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

X = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def pretrained(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A network whose BatchNorm has seen data, and has weights that are not 1 and 0."""
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(8)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        norm,
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        norm,
        nn.Flatten(),
        nn.Linear(32, 2),
    ).to(dtype)
    for _ in range(3):
        network(2 * X.to(dtype) + 1)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    return network


class Plain(Posterior):
    """Draws nothing."""

    def sample(self, key: Key) -> Weights:
        return {}

    def complexity(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64)


def test_every_method_refuses_running_statistics_and_names_both_ways_out() -> None:
    for make in (hb.Gaussian, lambda network: Plain(network, (), seed=0)):
        with pytest.raises(
            ValueError, match=r"1 is a BatchNorm2d: .*hb\.freeze_batchnorm.*hb\.replace_batchnorm"
        ):
            make(pretrained())


def test_frozen_it_is_the_network_in_evaluation_whatever_the_mode() -> None:
    network, x = pretrained(torch.float64), X.double()
    expected = copy.deepcopy(network).eval()(x)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert hb.freeze_batchnorm(network) is network
    assert isinstance(network[1], FrozenBatchNorm)
    assert network[4] is network[1]  # it was one layer in two places
    assert torch.equal(network.train()(x), expected)
    assert torch.allclose(network(x[:1]), expected[:1], rtol=0, atol=1e-12)  # others do not matter
    after = network.state_dict()
    assert list(after) == list(state)
    assert all(torch.equal(after[name], value) for name, value in state.items())
    pretrained().load_state_dict(after)
    assert hb.freeze_batchnorm(network) is network  # there is none left


@pytest.mark.parametrize("samples_per_pass", [1, 4])
def test_a_frozen_network_trains_and_its_statistics_stay(samples_per_pass: int) -> None:
    network = hb.freeze_batchnorm(pretrained(torch.float64))
    posterior = hb.Gaussian(network)
    assert "1.weight" not in posterior.names
    before = network[1].running_mean.clone(), network[1].weight.detach().clone()
    step = hb.Step(
        posterior,
        hb.losses.categorical_nll(),
        torch.optim.Adam(posterior.parameters(), lr=1e-2),
        World(Grid(1, 1, 0), torch.device("cpu")),
        samples=4,
        samples_per_pass=samples_per_pass,
        num_examples=6,
        precision="float64",
    )
    for _ in range(3):
        loss = step(X.double(), torch.arange(6) % 2)
    assert torch.isfinite(loss)
    assert torch.equal(network[1].running_mean, before[0])
    assert not torch.equal(network[1].weight, before[1])  # trained like any weight
    drawn = hb.Gaussian(hb.freeze_batchnorm(pretrained()), random=["*"])
    one, several = (drawn.predict(X, samples=3, samples_per_pass=n) for n in (1, 3))
    assert torch.allclose(one, several, rtol=0, atol=1e-5)


def test_a_batchnorm_by_itself_is_replaced_by_what_is_returned() -> None:
    norm = nn.BatchNorm1d(4, affine=False)
    norm(torch.randn(8, 4))
    frozen = hb.freeze_batchnorm(copy.deepcopy(norm))
    assert torch.equal(frozen(X[:, 0]), norm.eval()(X[:, 0]))
    grouped = hb.replace_batchnorm(norm)
    assert isinstance(grouped, nn.GroupNorm)
    assert grouped.weight is None
    assert not grouped.training


def test_what_cannot_be_frozen_is_refused_by_name() -> None:
    class Activated(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    untracked = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match=r"0 is a BatchNorm2d without running .*replace_batchnorm"):
        hb.freeze_batchnorm(untracked)
    hooked = nn.BatchNorm2d(3)
    hooked.register_forward_hook(lambda layer, x, y: 2 * y)
    for layer in (Activated(3), hooked):
        for replace in (hb.freeze_batchnorm, hb.replace_batchnorm):
            with pytest.raises(ValueError, match=r"0 is a \w+ that does more than BatchNorm"):
                replace(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("layer", "limit", "groups"),
    [
        (nn.BatchNorm2d(64), 32, 32),
        (nn.BatchNorm2d(32), 32, 16),  # two channels to a group at least
        (nn.BatchNorm2d(12), 5, 4),
        (nn.BatchNorm3d(7), 32, 1),
        (nn.BatchNorm2d(1), 32, 1),
        (nn.BatchNorm1d(64), 32, 1),
        (nn.SyncBatchNorm(64), 8, 8),
    ],
)
def test_groups_divide_the_channels(layer: nn.Module, limit: int, groups: int) -> None:
    norm = hb.replace_batchnorm(nn.Sequential(layer), groups=limit)[0]
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_group_norm_has_the_affine_weights_and_can_be_trained() -> None:
    network = pretrained(torch.float64)
    weight, bias, eps = network[1].weight, network[1].bias, network[1].eps
    assert hb.replace_batchnorm(network, groups=2) is network
    norm = network[1]
    assert network[4] is norm
    assert norm.weight is weight
    assert norm.bias is bias
    x = torch.randn(2, 8, 5, dtype=torch.float64)
    groups = x.view(2, 2, 20)
    variance, mean = torch.var_mean(groups, -1, correction=0, keepdim=True)
    plain = ((groups - mean) / (variance + eps).sqrt()).view(2, 8, 5)
    expected = plain * weight[:, None] + bias[:, None]
    assert torch.allclose(norm(x), expected, rtol=0, atol=1e-12)
    assert hb.Gaussian(network).predict(X.double(), samples=2).shape == (2, 6, 2)
    with pytest.raises(ValueError, match="groups = 0: must be at least 1"):
        hb.replace_batchnorm(network, groups=0)
