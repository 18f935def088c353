"""What each peer computes, measured on a tiny network in float64: no claim without a number.

``gradient_error``: gradients of one training step against central differences of the objective of
that same step with the same noise (the generator is seeded alike before every evaluation). Whatever
objective a library has, its gradients should be those of it.

``kl_ratio``: the KL term over the closed form, sum [ log(1 / sigma) + (sigma^2 + mu^2) / 2 - 1/2 ].

``objective_error``: the objective over that of an ELBO, the mean over samples and batch of the
negative log-likelihood plus KL / N, under the same noise, less one. A loss of the mean prediction
or of moments over samples is another objective: ranks that hold part of the samples cannot average
its gradients.

``row_difference``: two equal rows of a batch under one weight sample give equal outputs. Where they
do not, activations were drawn, and there is no network that a member of an ensemble could be.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from networks import NUM_EXAMPLES, Task
from peer_models import HpcBnn, OptimizerOf, Peer
from torch import Tensor, nn

from hpc_bnn import losses
from hpc_bnn.models.mlp import MLP

STEP = 1e-5  # of the central differences: truncation and rounding both below 1e-9
SAMPLES = 4
KL_DRAWS = 300  # of SAMPLES samples each, where the KL is an estimate
LARGEST_GRADIENT_ERROR = 1e-6
LARGEST_ROW_DIFFERENCE = 1e-9
LARGEST_KL_ERROR = 0.02  # of an estimate by KL_DRAWS x SAMPLES draws
LARGEST_OBJECTIVE_ERROR = 0.01  # the KL over N is less than that, also where it is an estimate

Build = Callable[[Task, int, OptimizerOf], Peer]


@dataclass(frozen=True)
class Findings:
    """What was measured of one peer.

    Attributes
    ----------
    gradient_error
        Largest relative error (norm of the difference over norm) of the gradients of all means and
        of all scales.
    gradient_cosine
        Of the worse of the two.
    kl_ratio
        KL term over its closed form; of an estimate the mean of many.
    objective_error
        Relative difference of the objective from the ELBO's, with the peer's own KL.
    row_difference
        Largest difference of two equal rows under one sample, over the largest output.
    """

    gradient_error: float
    gradient_cosine: float
    kl_ratio: float
    objective_error: float
    row_difference: float

    @property
    def gradients(self) -> str:
        """Whether the gradients are those of the objective, in words."""
        if self.gradient_error <= LARGEST_GRADIENT_ERROR:
            return "yes"
        return f"no: off by {self.gradient_error:.0%}, cosine {self.gradient_cosine:.2f}"

    @property
    def objective(self) -> str:
        """Which objective it is, in words."""
        if self.objective_error > LARGEST_OBJECTIVE_ERROR:
            return "joint in samples"
        return "ELBO" if abs(self.kl_ratio - 1) < LARGEST_KL_ERROR else "KL too small"

    @property
    def weight_samples(self) -> str:
        """Whether the step draws weights, in words."""
        return "yes" if self.row_difference <= LARGEST_ROW_DIFFERENCE else "no: equal rows differ"


def examine(build: Build) -> Findings:
    """Measure the peer that ``build`` makes of a task, a number of samples and an optimizer."""
    peer = build(tiny_task(), SAMPLES, at_rest)
    error, cosine = gradient_error(peer)
    return Findings(error, cosine, kl_ratio(peer), objective_error(peer), row_difference(peer))


def tiny_task() -> Task:
    """Regression 3-4-2 on three examples, in float64."""
    generator = torch.Generator().manual_seed(1)
    return Task(
        network=lambda: MLP((3,), (2,), hidden=(4,), activation="tanh").double(),
        loss=lambda: losses.gaussian_nll().double(),
        x=torch.randn(3, 3, generator=generator, dtype=torch.float64),
        y=torch.randn(3, 2, generator=generator, dtype=torch.float64),
    )


def at_rest(module: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer that leaves the parameters where they are."""
    return torch.optim.SGD(module.parameters(), lr=0.0)


def gradient_error(peer: Peer) -> tuple[float, float]:
    """Return relative error and cosine of the worse of the gradients of means and scales."""
    _objective(peer)
    named = [(name, p) for name, p in peer.module.named_parameters() if p.grad is not None]
    found = {name: p.grad.clone() for name, p in named if p.grad is not None}
    true = {name: _differences(peer, p) for name, p in named}
    worst = (0.0, 1.0)
    for scales in (False, True):
        names = [name for name, _ in named if _is_scale(name) is scales]
        got = torch.cat([found[name].flatten() for name in names])
        want = torch.cat([true[name].flatten() for name in names])
        error = float((got - want).norm() / want.norm())
        if error >= worst[0]:
            worst = (error, float(torch.cosine_similarity(got, want, dim=0)))
    return worst


def kl_ratio(peer: Peer) -> float:
    """Return the peer's KL over the closed form."""
    exact = torch.stack(
        [
            (0.5 * (sigma.square() + mu.square() - 1) - torch.log(sigma)).sum()
            for mu, sigma in peer.gaussians()
        ]
    ).sum()
    with torch.no_grad():
        terms = torch.stack([peer.kl() for _ in range(KL_DRAWS)])
        return float(terms.mean() / exact)


def objective_error(peer: Peer) -> float:
    """Return by how much the objective differs from the ELBO's, relatively."""
    task = tiny_task()
    likelihood = task.loss()
    objective = _objective(peer) / peer.scale
    torch.manual_seed(3)
    with torch.no_grad():
        outputs = torch.as_tensor(peer.outputs(task.x))
        nll = torch.stack([likelihood(output, task.y) for output in outputs]).mean()
        elbo = float(nll + peer.kl() / NUM_EXAMPLES)
    return abs(objective / elbo - 1)


def row_difference(peer: Peer) -> float:
    """Return by how much two equal rows differ under one sample, over the largest output."""
    row = torch.linspace(-1.0, 1.0, 3, dtype=torch.float64)
    with torch.no_grad():
        outputs = torch.as_tensor(peer.outputs(torch.stack([row, row])))
    return float((outputs[:, 0] - outputs[:, 1]).abs().max() / outputs.abs().max())


def _objective(peer: Peer) -> float:
    """Return the objective under the one noise of this file; leaves its gradients."""
    torch.manual_seed(3)
    if isinstance(peer, HpcBnn):
        peer.repeat()
    return float(peer.step())


def _differences(peer: Peer, parameter: nn.Parameter) -> Tensor:
    """Return central differences of the objective for every entry of a parameter."""
    gradient = torch.zeros_like(parameter)
    flat, slopes = parameter.data.view(-1), gradient.view(-1)
    for i in range(len(flat)):
        middle = float(flat[i])
        flat[i] = middle + STEP
        above = _objective(peer)
        flat[i] = middle - STEP
        below = _objective(peer)
        flat[i] = middle
        slopes[i] = (above - below) / (2 * STEP)
    return gradient


def _is_scale(name: str) -> bool:
    return any(word in name for word in ("log_sigma", "rho_", "log_std"))
