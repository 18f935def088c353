"""Libraries for Bayesian networks, each as a step that can be timed and checked (``peer_models``).

They are used as their documentation shows: an ordinary network is converted, its means are kept.
Where a library leaves the data term open it is that of ``hb.Step``, the mean over weight samples
and batch of the negative log-likelihood. Both need nothing but the torch that is here:

    pip install --no-deps torch-blue==1.1.0 bayesian-torch==0.5.0

Letters: S weight samples, B batch.
"""

import math
from collections.abc import Iterator

import torch
from contenders import adam
from networks import NUM_EXAMPLES, Task
from peer_models import INITIAL_SIGMA, OptimizerOf
from torch import Tensor, nn

from hpc_bnn.losses.nll import CategoricalLikelihood, ExpectedNLL


class MissingPeerError(RuntimeError):
    """A peer library is not installed; the message says how to install it."""


class BayesianTorch:
    """bayesian-torch: forward in a loop, then one backward, as its README shows.

    Parameters
    ----------
    layers
        ``Reparameterization`` or ``Flipout``.
    each
        Backward after each sample instead, and the KL once.
    """

    scale = 1

    def __init__(
        self,
        task: Task,
        *,
        samples: int,
        layers: str,
        each: bool = False,
        optimizer: OptimizerOf = adam,
    ) -> None:
        try:
            from bayesian_torch.models import dnn_to_bnn
        except ImportError as error:
            raise MissingPeerError(
                f"bayesian-torch cannot be imported ({error}); "
                "pip install --no-deps bayesian-torch==0.5.0"
            ) from error
        torch.manual_seed(0)
        self.module = task.network()
        means = {
            name: layer for name, layer in self.module.named_modules() if type(layer) is nn.Linear
        }
        dnn_to_bnn.dnn_to_bnn(
            self.module,
            {
                "prior_mu": 0.0,
                "prior_sigma": 1.0,
                "posterior_mu_init": 0.0,
                "posterior_rho_init": math.log(math.expm1(INITIAL_SIGMA)),
                "type": layers,
                "moped_enable": False,
                "moped_delta": 0.0,
            },
        )
        with torch.no_grad():
            for name, linear in means.items():
                layer = self.module.get_submodule(name)
                layer.mu_weight.copy_(linear.weight)
                layer.mu_bias.copy_(linear.bias)
        self.module.to(task.x.dtype)
        self._kl_of = dnn_to_bnn.get_kl_loss
        self._task, self._samples, self._each = task, samples, each
        self._loss, self._optimizer = task.loss(), optimizer(self.module)

    def step(self) -> Tensor:
        self._optimizer.zero_grad()
        if self._each:
            objective = self.kl() / NUM_EXAMPLES
            objective.backward()
            for _ in range(self._samples):
                share = self._data_term(self.module(self._task.x)) / self._samples
                share.backward()
                objective = objective.detach() + share.detach()
        else:
            outputs, terms = [], []
            for _ in range(self._samples):
                outputs.append(self.module(self._task.x))
                terms.append(self.kl())
            data = torch.stack([self._data_term(output) for output in outputs]).mean()
            objective = data + torch.stack(terms).mean() / NUM_EXAMPLES
            objective.backward()
        self._optimizer.step()
        return objective.detach()

    def _data_term(self, output: Tensor) -> Tensor:
        term: Tensor = self._loss(output, self._task.y).mean()
        return term

    def outputs(self, x: Tensor) -> Tensor:
        return torch.stack([self.module(x) for _ in range(self._samples)])

    def kl(self) -> Tensor:
        term: Tensor = self._kl_of(self.module)
        return term

    def gaussians(self) -> Iterator[tuple[Tensor, Tensor]]:
        for layer in self.module.modules():
            if hasattr(layer, "rho_weight"):
                for kind in ("weight", "bias"):
                    rho = getattr(layer, f"rho_{kind}")
                    yield getattr(layer, f"mu_{kind}"), torch.log1p(torch.exp(rho))


class TorchBlue:
    """torch-blue: all samples in one pass by ``torch.vmap``, its loss of the predictive moments or
    mean probability. ``analytical``: the closed-form KL, with which it draws activations.
    """

    scale = NUM_EXAMPLES

    def __init__(
        self, task: Task, *, samples: int, analytical: bool = False, optimizer: OptimizerOf = adam
    ) -> None:
        try:
            from torch_blue import vi
            from torch_blue.vi import distributions
            from torch_blue.vi.utils.convert import ban_convert, convert_to_vimodule
        except ImportError as error:
            raise MissingPeerError(
                f"torch-blue cannot be imported ({error}); pip install --no-deps torch-blue==1.1.0"
            ) from error
        torch.manual_seed(0)
        self.module = task.network()
        for layer in self.module.modules():
            if layer._parameters and not isinstance(layer, nn.Linear):
                ban_convert(type(layer))  # its own weights stay deterministic, as elsewhere
            if layer._modules:
                # It would take a class of the same name for the same class.
                ban_convert(type(layer), ban_mode="reuse")
        convert_to_vimodule(
            self.module,
            keep_weights=True,
            variational_distribution=distributions.MeanFieldNormal(std=INITIAL_SIGMA),
            kaiming_initialization=False,
            return_log_probs=not analytical,
        )
        self._vi_module = vi.VIModule
        likelihood = task.loss()
        assert isinstance(likelihood, ExpectedNLL)
        classes = isinstance(likelihood.likelihood, CategoricalLikelihood)
        self.predictive = (
            distributions.Categorical() if classes else distributions.MeanFieldNormal()
        )
        if analytical:
            self._loss = vi.AnalyticalKullbackLeiblerLoss(
                self.module, self.predictive, dataset_size=NUM_EXAMPLES
            )
        else:
            self._loss = vi.KullbackLeiblerLoss(self.predictive, dataset_size=NUM_EXAMPLES)
        self._task, self._samples, self._analytical = task, samples, analytical
        self._optimizer = optimizer(self.module)

    def step(self) -> Tensor:
        self._optimizer.zero_grad()
        objective: Tensor = self._loss(
            self.module(self._task.x, samples=self._samples), self._task.y
        )
        objective.backward()
        self._optimizer.step()
        return objective.detach()

    def outputs(self, x: Tensor) -> Tensor:
        drawn: Tensor = self.module(x, samples=self._samples)
        return drawn

    def kl(self) -> Tensor:
        if self._analytical:
            term: Tensor = self._loss.prior_matching()
            return term
        prior, variational = self.outputs(self._task.x).log_probs.mean(0)
        return variational - prior

    def gaussians(self) -> Iterator[tuple[Tensor, Tensor]]:
        for layer in self.module.modules():
            if isinstance(layer, self._vi_module) and layer.random_variables:
                for variable in layer.random_variables:
                    mean, log_std = layer.get_variational_parameters(variable)
                    yield mean, log_std.exp()
