"""A posterior that starts with the weights of another one, of its own method or of another."""

import pytest
import torch
from torch import nn

import hpc_bnn as hb
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.bayes.posterior import Posterior


def network(seed: int = 0, width: int = 4) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Linear(3, width), nn.Dropout(0.1), nn.ReLU(), nn.Linear(width, 2)
    return nn.Sequential(*layers).double()


def moved(posterior: Posterior) -> Posterior:
    """Return it with parameters as if it had been trained."""
    posterior.initialise()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in posterior.parameters():
            p.add_(torch.rand(p.shape, generator=generator, dtype=p.dtype))
    return posterior


def test_the_mean_of_a_gaussian_is_the_network_of_other_methods() -> None:
    trained = moved(hb.Gaussian(network()))
    for other in (hb.Dropout(network(1)), hb.LowRank(network(1), rank=2), hb.Rank1(network(1))):
        own = {n: p.clone() for n, p in other.named_parameters() if not n.startswith("module.")}
        other.start_from(trained)
        for name, value in trained.module.named_parameters():
            assert torch.equal(other.module.get_parameter(name), value)
        for name, value in own.items():
            assert torch.equal(other.get_parameter(name), value)


def test_the_mean_of_a_rank1_posterior_is_the_product_of_its_factors() -> None:
    trained = moved(hb.Rank1(network()))
    for name in trained.names:
        assert not torch.equal(trained.mean()[name], trained.module.get_parameter(name))
    other = hb.Gaussian(network(1))
    other.start_from(trained)
    for name, value in trained.module.named_parameters():
        assert torch.equal(other.module.get_parameter(name), trained.mean().get(name, value))


def test_a_posterior_of_the_same_method_is_taken_with_its_scales() -> None:
    trained, other = moved(hb.Gaussian(network())), hb.Gaussian(network(1))
    other.start_from(trained)
    for name, value in trained.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_members_start_around_the_network() -> None:
    trained = moved(hb.Gaussian(network()))
    ensemble = hb.Ensemble(network(1), samples=3, initial_spread=0.1, seed=7)
    ensemble.initialise()  # a step has done so before a checkpoint is read
    ensemble.start_from(trained)
    weight = trained.module.get_parameter("0.weight").detach()
    for member in range(3):
        eps = normals(Stream(7, Purpose.INITIAL, 0, member), weight.shape).double()
        expected = weight + 0.1 * weight.square().mean().sqrt() * eps
        assert torch.allclose(ensemble.rows["0/weight"][member], expected, rtol=0, atol=1e-15)


def test_members_that_start_anew_would_lose_the_network() -> None:
    with pytest.raises(ValueError, match=r"posterior\.initial_spread = None.*set it"):
        hb.Ensemble(network(), samples=3).start_from(hb.Gaussian(network()))


@pytest.mark.parametrize("method", [hb.SWAG, hb.SGHMC, hb.Ensemble])
def test_members_start_with_those_of_another_run(method: type[Posterior]) -> None:
    trained = moved(hb.SWAG(network(), samples=2, rank=2))
    trained.collect(0)
    other = method(network(1), samples=2)
    other.start_from(trained)
    for name, rows in trained.rows.items():
        assert torch.equal(other.rows[name], rows)
    if isinstance(other, hb.SWAG):
        assert other.collected == 0  # the walk to measure is that of this run
        assert not any(b.any() for b in other.means.buffers())


def test_what_does_not_fit() -> None:
    members = hb.Ensemble(network(), samples=3)
    with pytest.raises(ValueError, match="3 members, and Gaussian starts from one network"):
        hb.Gaussian(network()).start_from(members)
    with pytest.raises(ValueError, match=r"3 members, and posterior\.samples = 2"):
        hb.Ensemble(network(), samples=2).start_from(members)
    with pytest.raises(ValueError, match=r"module\.0\.weight is \(5, 3\) in it, \(4, 3\) here"):
        hb.Dropout(network()).start_from(hb.Gaussian(network(width=5)))
    with pytest.raises(ValueError, match=r"log_sigma\.0/bias is not known here"):
        hb.Gaussian(network(), random=["*weight"]).start_from(hb.Gaussian(network()))


def test_tied_weights() -> None:
    def tied() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
        net[2].weight = net[0].weight
        return net

    trained, other = moved(hb.Rank1(tied())), hb.Gaussian(tied())
    other.start_from(trained)
    assert torch.equal(other.module[2].weight, trained.mean()["0.weight"])
