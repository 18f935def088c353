"""What an optimizer may hold, how gradients of any kind are measured, and what is refused."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_step import alone

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.train.step.gradients import Gradients
from hpc_bnn.train.step.parameters import TrainingWatch, buffers_of
from hpc_bnn.train.step.settings import StepSettings
from hpc_bnn.train.step.step import Step

Make = Callable[[Iterable[Any]], torch.optim.Optimizer]


def sgd(parameters: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def step_over(network: nn.Module, make: Make = sgd, **options: Any) -> Step:
    torch.manual_seed(1)
    posterior = Gaussian(network, **options.pop("posterior", {}))
    given = {"samples": 2, "num_examples": 10, **options}
    return Step(posterior, losses.categorical_nll(), make(posterior.parameters()), alone(), **given)


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def batch() -> tuple[Tensor, Tensor]:
    return torch.arange(24.0).view(4, 6).cos(), torch.tensor([0, 1, 2, 0])


# Optimizers


def test_frozen_parameters_may_be_in_the_optimizer() -> None:
    network = two_layers()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    step = step_over(
        network,
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5),
        posterior={"random": ["2.*"]},
    )
    step(*batch())
    assert torch.equal(network[0].weight, before)
    assert not torch.equal(network[2].weight, two_layers()[2].weight)


def test_parameters_that_belong_to_nothing_are_told_by_shape() -> None:
    strays = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (), (5,))]
    with pytest.raises(
        ValueError,
        match=r"holds 4 parameters that .* nor loss, of shape \(2, 3\), \(4,\), \(\), \.",
    ):
        step_over(two_layers(), lambda p: sgd([*p, *strays]))


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_parameters_that_the_optimizer_would_step_twice() -> None:
    network = two_layers()
    with pytest.raises(
        ValueError, match=r"module\.0\.weight 2 times \(4 such .*has those of the net"
    ):
        step_over(network, lambda p: sgd([*p, *network.parameters()]))


def test_a_stray_parameter_that_the_optimizer_gets_later() -> None:
    made: list[torch.optim.Optimizer] = []

    def make(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        made.append(sgd(parameters))
        return made[0]

    step = step_over(two_layers(), make)
    step(*batch())
    made[0].add_param_group({"params": [nn.Parameter(torch.zeros(2, 3))]})
    with pytest.raises(ValueError, match=r"holds 1 parameters .* of shape \(2, 3\); build it"):
        step(*batch())


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


class LikeHorovod(torch.optim.SGD):
    def skip_synchronize(self) -> None:
        """What tells Horovod's class, which is made while Python runs."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch.optim.LBFGS, r"is LBFGS, whose step .*\(a closure\).* such as Adam or SGD"),
        (lambda p: NeedsClosure(p, lr=0.1), r"is NeedsClosure, whose step"),
        (torch.optim.SparseAdam, r"is SparseAdam, .* dense: use Adam"),
        (
            lambda p: LikeHorovod(p, lr=0.1),
            r"is Horovod's DistributedOptimizer .*; give it the Like",
        ),
    ],
    ids=["LBFGS", "closure", "SparseAdam", "Horovod"],
)
def test_optimizers_that_cannot_take_a_step(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_over(two_layers(), make)


def test_a_schedule_does_not_hide_what_an_optimizer_needs() -> None:
    """It wraps ``optimizer.step``."""

    def scheduled(parameters: Iterable[Any]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(parameters, lr=0.1)
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        return optimizer

    step_over(two_layers(), scheduled)(*batch())


# Sparse gradients


class Words(nn.Module):
    def __init__(self, layer: type[nn.Module], sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = layer(20, 8, sparse=sparse)
        self.bag = layer is nn.EmbeddingBag
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        words = self.words(x)
        out: Tensor = self.out(words if self.bag else words.mean(-2))
        return out


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("random", [None, ["*"]], ids=["fixed", "random"])
@pytest.mark.parametrize(
    "make",
    [
        sgd,
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=0.1),
    ],
    ids=["SGD", "momentum", "Adam"],
)
def test_a_sparse_embedding_trains_as_a_dense_one(
    layer: type[nn.Module], random: list[str] | None, make: Make
) -> None:
    """Also clipped, and where torch's optimizer would refuse sparse gradients."""
    x, y = torch.arange(20).view(4, 5) % 7, batch()[1]
    ends = []
    for sparse in (False, True):
        network = Words(layer, sparse).double()
        step = step_over(network, make, posterior={"random": random}, clip_norm=0.1)
        values = [float(step(x, y)) for _ in range(3)]
        ends.append((values, network.words.weight.detach()))
    (dense, dense_weight), (sparse_too, sparse_weight) = ends
    assert dense == pytest.approx(sparse_too, rel=1e-12)
    assert torch.allclose(dense_weight, sparse_weight, rtol=1e-9, atol=1e-12)


def test_a_random_sparse_embedding_takes_one_sample_a_pass() -> None:
    with pytest.raises(
        ValueError, match=r"samples_per_pass = 2: words\.weight is random and has sp"
    ):
        step_over(
            Words(nn.Embedding, True), posterior={"random": ["*"]}, samples=4, samples_per_pass=2
        )
    step_over(Words(nn.Embedding, True), samples=4, samples_per_pass=2)


# Norms


def gradients_of(network: nn.Module, random: list[str], value: float) -> Gradients:
    """Return the gradients of a step over ``network``, all elements of which are ``value``."""
    posterior, settings = Gaussian(network, random=random), StepSettings(samples=2, num_examples=10)
    optimizer = sgd(posterior.parameters())
    loss = losses.categorical_nll()
    gradients = Gradients(posterior, loss, optimizer, alone(), settings, draws=2)
    for p in gradients.named.values():
        p.grad = torch.full_like(p, value)
    return gradients


def test_the_norm_of_half_precision_is_taken_in_float32() -> None:
    """Two thousand finite gradients of 3e3 have a norm beyond the range of float16."""
    gradients = gradients_of(nn.Linear(6, 3).half(), ["*"], 6e4)
    count = sum(p.numel() for p in gradients.named.values() if p.dtype == torch.float16)
    assert count > 20
    assert float(gradients.norms().shared) == pytest.approx(
        6e4 * sum(p.numel() for p in gradients.named.values()) ** 0.5, rel=1e-3
    )


def test_norm_and_clipping_over_mixed_dtypes() -> None:
    network = nn.ModuleList(
        nn.Linear(2, 2, dtype=t)
        for t in (torch.float32, torch.float64, torch.bfloat16, torch.complex64)
    )
    gradients = gradients_of(network, ["0.*"], 2.0)
    count = sum(p.numel() for p in gradients.named.values())
    norms = gradients.norms()
    assert float(norms.shared) == pytest.approx(2 * count**0.5, rel=1e-6)
    gradients.clip(1.0, norms)
    for name, p in gradients.named.items():
        assert p.grad is not None
        assert p.grad.dtype == p.dtype, name
        assert p.grad.abs().flatten()[0].item() == pytest.approx(count**-0.5, rel=4e-3), name


# What is watched


def test_the_watch_sees_what_changes_and_nothing_else() -> None:
    network = two_layers()
    optimizer = sgd(network.parameters())

    def watched(change: Callable[[], object]) -> bool:
        watch = TrainingWatch([network], optimizer)
        assert not watch.changed()
        change()
        return watch.changed()

    assert watched(lambda: network[0].requires_grad_(False))
    assert watched(lambda: network[0].bias.requires_grad_(True))
    assert watched(lambda: network[0].register_parameter("extra", nn.Parameter(torch.ones(2))))
    assert watched(lambda: setattr(network[0], "bias", nn.Parameter(torch.ones(5))))
    assert watched(lambda: setattr(network, "more", nn.Linear(2, 2)))
    assert watched(lambda: setattr(network, "more", nn.Linear(2, 2)))
    assert watched(lambda: optimizer.add_param_group({"params": list(network.more.parameters())}))
    assert not watched(lambda: network.double())
    assert not watched(lambda: network[0].weight.data.zero_())
    assert not watched(lambda: network.eval())
    assert not watched(lambda: optimizer.load_state_dict(optimizer.state_dict()))


def test_sparse_buffers_consist_of_indices_and_values() -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("coo", torch.eye(2).to_sparse())
    network.register_buffer("csr", torch.eye(2).to_sparse_csr())
    buffers = buffers_of(Gaussian(network), losses.categorical_nll())
    names = ["coo.indices", "coo.values", "csr.crow_indices", "csr.col_indices", "csr.values"]
    assert [*buffers] == [f"module.{name}" for name in names]
    buffers["module.csr.values"].mul_(3)
    assert network.csr.to_dense().tolist() == [[3, 0], [0, 3]]
