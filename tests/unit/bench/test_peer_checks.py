"""The checks of ``tests/bench/peer_checks.py`` find what is planted, and pass what is right."""

import importlib.util

import peer_checks
import pytest
import torch
from networks import NUM_EXAMPLES, Task
from peer_libraries import BayesianTorch, TorchBlue
from peer_models import HpcBnn, OptimizerOf, Peer, PlainTorch, Reparametrised
from peers import process_group
from torch import Tensor, nn
from torch.nn import functional


class OneBackward:
    """A loop over samples and one backward, with faults to be planted by subclasses."""

    scale = 1

    def __init__(self, task: Task, samples: int, optimizer: OptimizerOf) -> None:
        torch.manual_seed(0)
        self.module = Reparametrised(task.network())
        self._task, self._samples = task, samples
        self._optimizer = optimizer(self.module)

    def step(self) -> Tensor:
        self._optimizer.zero_grad()
        objective = self._data_term(self.outputs(self._task.x)) + self.kl() / NUM_EXAMPLES
        objective.backward()
        self._optimizer.step()
        return objective.detach()

    def outputs(self, x: Tensor) -> Tensor:
        return torch.stack([self.module(x) for _ in range(self._samples)])

    def kl(self) -> Tensor:
        return self.module.kl()

    def gaussians(self):
        for _, mu, log_sigma in self.module.pairs():
            yield mu, log_sigma.exp()

    def _data_term(self, outputs: Tensor) -> Tensor:
        likelihood = self._task.loss()
        return torch.stack([likelihood(output, self._task.y) for output in outputs]).mean()


class OneBuffer(OneBackward):
    """Refills one buffer of noise behind autograd's back: the scales get the last noise."""

    def outputs(self, x: Tensor) -> Tensor:
        buffers = [torch.zeros_like(mu) for _, mu, _ in self.module.pairs()]
        drawn = []
        for _ in range(self._samples):
            weights = {
                name: mu + torch.exp(log_sigma) * buffer.data.normal_()
                for (name, mu, log_sigma), buffer in zip(self.module.pairs(), buffers, strict=True)
            }
            drawn.append(torch.func.functional_call(self.module.network, weights, (x,)))
        return torch.stack(drawn)


class MeanKL(OneBackward):
    """Takes the mean of the KL over the entries of a tensor where the sum belongs."""

    def kl(self) -> Tensor:
        return super().kl() / 10


class DrawnActivations(OneBackward):
    """Noise for every row of the output."""

    def outputs(self, x: Tensor) -> Tensor:
        drawn = super().outputs(x)
        return drawn + torch.exp(self.module.log_sigma[0].mean()) * torch.randn_like(drawn)


class MeanPrediction(OneBackward):
    """The loss of the mean output, which is not a mean over samples."""

    def _data_term(self, outputs: Tensor) -> Tensor:
        likelihood = self._task.loss()
        return likelihood(outputs.mean(0) + 1.0, self._task.y).mean()


def test_right_peer_passes_every_check() -> None:
    findings = peer_checks.examine(OneBackward)
    assert findings.gradients == "yes"
    assert findings.objective == "ELBO"
    assert findings.weight_samples == "yes"
    assert findings.kl_ratio == pytest.approx(1.0, rel=1e-12)


def test_noise_refilled_behind_autograd_is_found() -> None:
    findings = peer_checks.examine(OneBuffer)
    assert findings.gradient_error > 0.3
    assert findings.gradients.startswith("no: off by")
    assert findings.weight_samples == "yes"


def test_kl_of_means_is_found() -> None:
    findings = peer_checks.examine(MeanKL)
    assert findings.kl_ratio == pytest.approx(0.1, rel=1e-12)
    assert findings.objective == "KL too small"
    assert findings.gradients == "yes"


def test_drawn_activations_are_found() -> None:
    assert peer_checks.examine(DrawnActivations).weight_samples == "no: equal rows differ"


def test_loss_of_the_mean_prediction_is_found() -> None:
    assert peer_checks.examine(MeanPrediction).objective == "joint in samples"


def test_gradient_error_of_a_known_fault() -> None:
    """Gradients twice as large are off by 1, in the same direction."""

    class Twice(OneBackward):
        def step(self) -> Tensor:
            objective = super().step()
            for p in self.module.parameters():
                p.grad = 2 * p.grad
            return objective

    error, cosine = peer_checks.gradient_error(
        Twice(peer_checks.tiny_task(), 2, peer_checks.at_rest)
    )
    assert error == pytest.approx(1.0, rel=1e-6)
    assert cosine == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("keep_noise", [False, True])
def test_hb_step_is_right(keep_noise: bool) -> None:
    def build(task: Task, samples: int, optimizer: OptimizerOf) -> Peer:
        return HpcBnn(task, samples=samples, keep_noise=keep_noise, optimizer=optimizer)

    findings = peer_checks.examine(build)
    assert (findings.gradients, findings.objective, findings.weight_samples) == (
        "yes",
        "ELBO",
        "yes",
    )


def test_plain_torch_is_right() -> None:
    with process_group():
        findings = peer_checks.examine(
            lambda task, samples, optimizer: PlainTorch(task, samples=samples, optimizer=optimizer)
        )
    assert (findings.gradients, findings.objective, findings.weight_samples) == (
        "yes",
        "ELBO",
        "yes",
    )


@pytest.mark.parametrize("kind", [nn.Linear, nn.Embedding])
def test_random_weights_are_those_of_linear_layers(kind: type[nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(3, 2), kind(2, 2), nn.LayerNorm(2))
    names = Reparametrised(network).names
    assert names[:2] == ["0.weight", "0.bias"]
    assert ("1.weight" in names) is (kind is nn.Linear)
    assert not any(name.startswith("2") for name in names)


def test_kl_of_reparametrised_is_the_closed_form() -> None:
    user = Reparametrised(nn.Sequential(nn.Linear(3, 2)))
    exact = sum(
        torch.distributions.kl_divergence(
            torch.distributions.Normal(mu, log_sigma.exp()), torch.distributions.Normal(0.0, 1.0)
        ).sum()
        for _, mu, log_sigma in user.pairs()
    )
    assert float(user.kl().detach()) == pytest.approx(float(exact.detach()), rel=1e-5)
    assert bool(torch.isfinite(functional.mse_loss(user(torch.ones(1, 3)), torch.ones(1, 2))))


@pytest.mark.skipif(
    importlib.util.find_spec("bayesian_torch") is None, reason="bayesian-torch is not installed"
)
def test_bayesian_torch_is_right_only_sample_by_sample() -> None:
    def build(each: bool) -> peer_checks.Build:
        return lambda task, samples, optimizer: BayesianTorch(
            task, samples=samples, layers="Reparameterization", each=each, optimizer=optimizer
        )

    assert peer_checks.examine(build(each=False)).gradient_error > 0.3
    alone = peer_checks.examine(build(each=True))
    assert alone.gradients == "yes"
    assert alone.kl_ratio < 0.2


@pytest.mark.skipif(
    importlib.util.find_spec("torch_blue") is None, reason="torch-blue is not installed"
)
@pytest.mark.parametrize("analytical", [False, True])
def test_torch_blue_draws_weights_only_with_its_monte_carlo_kl(analytical: bool) -> None:
    findings = peer_checks.examine(
        lambda task, samples, optimizer: TorchBlue(
            task, samples=samples, analytical=analytical, optimizer=optimizer
        )
    )
    assert findings.gradients == "yes"
    assert findings.objective == "joint in samples"
    assert (findings.weight_samples == "yes") is not analytical
