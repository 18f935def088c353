"""Ways to train a Bayesian network, each as a step that can be timed and checked.

Here are ``hb.Step`` and what a user writes without a library; ``peer_libraries`` has the others.

All have prior N(0, 1) and sigma = 0.02 at the start, over the weights of linear layers; all get the
same optimizer.

Letters: S weight samples, B batch.
"""

import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from contenders import ALONE, adam
from networks import NUM_EXAMPLES, Task
from torch import Tensor, nn
from torch.func import functional_call

import hpc_bnn as hb

INITIAL_SIGMA = 0.02
OptimizerOf = Callable[[nn.Module], torch.optim.Optimizer]


class Peer(Protocol):
    """A way to train the network of a task.

    Attributes
    ----------
    module
        Holds what is trained.
    scale
        The objective is this many times that of one example.
    """

    module: nn.Module
    scale: int

    def step(self) -> Tensor | float:
        """Train once and return the objective; the gradients stay in the parameters."""

    def outputs(self, x: Tensor) -> Tensor:
        """Return what a training step computes (S, B, ...) for ``x`` (B, ...)."""

    def kl(self) -> Tensor:
        """Return the KL term as the objective has it, before it is divided by N."""

    def gaussians(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield mu and sigma of every random weight."""


class Deterministic:
    """The network itself on as many rows, the lower bound; at once or one pass a sample."""

    def __init__(
        self, task: Task, *, samples: int, passes: int, optimizer: OptimizerOf = adam
    ) -> None:
        torch.manual_seed(0)
        self.module, self._loss = task.network(), task.loss()
        self._passes = passes
        copies = samples // passes
        self._x = task.x.repeat(copies, *[1] * (task.x.dim() - 1))
        self._y = task.y.repeat(copies, *[1] * (task.y.dim() - 1))
        self._optimizer = optimizer(self.module)

    def step(self) -> Tensor:
        self._optimizer.zero_grad()
        for _ in range(self._passes):
            loss: Tensor = self._loss(self.module(self._x), self._y).mean() / self._passes
            loss.backward()
        self._optimizer.step()
        return loss.detach() * self._passes


class HpcBnn:
    """``hb.Step``."""

    scale = 1

    def __init__(
        self, task: Task, *, samples: int, keep_noise: bool = False, optimizer: OptimizerOf = adam
    ) -> None:
        torch.manual_seed(0)
        self.module = hb.Gaussian(
            task.network(), initial_sigma=INITIAL_SIGMA, keep_noise=keep_noise
        )
        self._task, self._samples = task, samples
        self._step = hb.Step(
            self.module,
            task.loss(),
            optimizer(self.module),
            ALONE,
            samples=samples,
            num_examples=NUM_EXAMPLES,
            precision="float64" if task.x.dtype == torch.float64 else "float32",
            guard_every=0,
        )

    def step(self) -> Tensor:
        return self._step(self._task.x, self._task.y)

    def repeat(self) -> None:
        """Draw the same noise again at the next step."""
        self._step.step = 0

    def outputs(self, x: Tensor) -> Tensor:
        parts = [self.module(x, self.module.key(0, (sample,))) for sample in range(self._samples)]
        return torch.cat(parts)

    def kl(self) -> Tensor:
        return self.module.complexity()

    def gaussians(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name in self.module.names:
            key = name.replace(".", "/")  # as the parameters are registered
            yield self.module.module.get_parameter(name), self.module.log_sigma[key].exp()


class Reparametrised(nn.Module):
    """The network with weights mu + exp(log_sigma) * randn, by ordinary autograd."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.names = [
            f"{name}.{kind}"
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear)
            for kind, _ in layer.named_parameters()
        ]
        self.log_sigma = nn.ParameterList(
            torch.full_like(network.get_parameter(name), math.log(INITIAL_SIGMA))
            for name in self.names
        )

    def pairs(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        for name, log_sigma in zip(self.names, self.log_sigma, strict=True):
            yield name, self.network.get_parameter(name), log_sigma

    def forward(self, x: Tensor) -> Tensor:
        weights = {
            name: mu + torch.exp(log_sigma) * torch.randn_like(mu)
            for name, mu, log_sigma in self.pairs()
        }
        output: Tensor = functional_call(self.network, weights, (x,))
        return output

    def kl(self) -> Tensor:
        terms = [
            (0.5 * (mu.square() + torch.exp(2 * log_sigma) - 1) - log_sigma).sum()
            for _, mu, log_sigma in self.pairs()
        ]
        return torch.stack(terms).sum()


class PlainTorch:
    """``DistributedDataParallel`` over ``Reparametrised``: a loop over the own samples, backward
    after each, gradients exchanged with the last. Needs a process group (``gloo``).
    """

    scale = 1

    def __init__(
        self, task: Task, *, samples: int, seed: int = 0, optimizer: OptimizerOf = adam
    ) -> None:
        torch.manual_seed(0)
        self._user = Reparametrised(task.network())
        self.module = nn.parallel.DistributedDataParallel(self._user)
        self._task, self._samples = task, samples
        self._loss, self._optimizer = task.loss(), optimizer(self.module)
        torch.manual_seed(seed)  # of the noise: ranks must draw different samples

    def step(self) -> Tensor:
        self._optimizer.zero_grad()
        total = torch.zeros(())
        for _ in range(self._samples - 1):
            with self.module.no_sync():
                share = self._share()
                share.backward()
            total = total + share.detach()
        last = self._share() + self._user.kl() / NUM_EXAMPLES
        last.backward()
        self._optimizer.step()
        return total + last.detach()

    def _share(self) -> Tensor:
        share: Tensor = self._loss(self.module(self._task.x), self._task.y).mean() / self._samples
        return share

    def outputs(self, x: Tensor) -> Tensor:
        return torch.stack([self._user(x) for _ in range(self._samples)])

    def kl(self) -> Tensor:
        return self._user.kl()

    def gaussians(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _, mu, log_sigma in self._user.pairs():
            yield mu, log_sigma.exp()
