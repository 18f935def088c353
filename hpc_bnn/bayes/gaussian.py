"""Mean-field Gaussian posterior over the weights of any module.

    q(w) = N(mu, sigma^2),   sigma = exp(log_sigma),   prior p(w) = N(0, tau^2)

    w_s = mu + sigma * eps_s

    KL(q || p) = sum [ log(tau / sigma) + (sigma^2 + mu^2) / (2 tau^2) - 1/2 ]

The module's own parameters are mu, so a pretrained network starts as the posterior mean. With
``temperature`` T the complexity term is that of the cold posterior, E_q[-log p(w)] - T * H(q): the
KL plus (1 - T) times the entropy of q.

Letters: S samples, B batch. Sources: Blundell et al. 2015, arXiv:1505.05424, eq. 1-2 (weight
samples, KL); Wenzel et al. 2020, arXiv:2002.02405, eq. 3 (cold posterior).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from hpc_bnn.bayes.draw import Draws, draw_together
from hpc_bnn.bayes.flat import flatten, groups, unflatten
from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.bayes.over_samples import over_samples
from hpc_bnn.bayes.selection import fan_in, random_names


class Gaussian(nn.Module):
    """Give the weights of ``module`` a mean-field Gaussian posterior.

    Parameters
    ----------
    module
        Any module without BatchNorm. It is not copied: its parameters are trained in place as the
        means.
    prior_sigma
        Standard deviation tau of the prior, or ``"fan_in"``: ``1 / sqrt(fan_in)`` of each layer.
    initial_sigma
        Standard deviation of q at the start.
    random
        Shell patterns over parameter names; None: linear, convolution, recurrent and attention
        layers (``selection``).
    antithetic
        Draw samples in mirrored pairs, mu +- sigma * eps.
    keep_noise
        Hold the noise of a forward pass until its backward: faster, one more array of the size of
        the weights.
    temperature
        1 for the Bayesian posterior, below 1 for a cold one.
    seed
        Key of all weight draws; the same on every rank.

    Attributes
    ----------
    log_sigma
        One parameter for each random weight, of its shape.

    Raises
    ------
    ValueError
        If a scale is not positive or ``selection.random_names`` refuses the module.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prior_sigma: float | Literal["fan_in"] = 1.0,
        initial_sigma: float = 0.02,
        random: Sequence[str] | None = None,
        antithetic: bool = False,
        keep_noise: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        scales = {"initial_sigma": initial_sigma, "temperature": temperature}
        if prior_sigma != "fan_in":
            scales["prior_sigma"] = prior_sigma
        for key, value in scales.items():
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"posterior.{key} = {value!r}: must be a positive number")
        self.module = module
        self.names = random_names(module, random)
        self.antithetic, self.keep_noise = antithetic, keep_noise
        self.prior_sigma, self.temperature, self.seed = prior_sigma, temperature, seed
        mus = {name: module.get_parameter(name) for name in self.names}
        self.log_sigma = nn.ParameterDict(
            {
                _key(name): nn.Parameter(torch.full_like(mu, math.log(initial_sigma)))
                for name, mu in mus.items()
            }
        )
        self._taus = [
            1 / math.sqrt(fan_in(module, name)) if prior_sigma == "fan_in" else float(prior_sigma)
            for name in self.names
        ]
        sizes = (mu.numel() for mu in mus.values())
        self._owners = [
            (module.get_submodule(path), name)
            for path, _, name in (name.rpartition(".") for name in self.names)
        ]
        self._offsets = list(accumulate(sizes, initial=0))

    def _random(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return mu and log_sigma of the random weights."""
        # Looked up anew: Module.to() may have replaced the parameters that were there at the start.
        mus: list[Tensor] = [getattr(layer, name) for layer, name in self._owners]
        return mus, [getattr(self.log_sigma, _key(name)) for name in self.names]

    def draws(self, step: int, samples: Sequence[int], purpose: Purpose = Purpose.WEIGHTS) -> Draws:
        """Name the weight samples of global indices ``samples`` at ``step``."""
        return Draws(self.seed, step, tuple(samples), purpose, self.antithetic, self.keep_noise)

    def draw(self, draws: Draws) -> dict[str, Tensor]:
        """Return the drawn weights by name, each (S, *shape)."""
        mus, log_sigmas = self._random()
        weights: list[Tensor] = []
        for group in groups(mus, [None] * len(mus)):
            offset = self._offsets[group.start]
            weights += draw_together(mus[group], log_sigmas[group], draws, offset)
        return dict(zip(self.names, weights, strict=True))

    def forward(self, x: Tensor, draws: Draws, *, views: bool = False) -> Tensor:
        """Return the outputs (S, B, ...) of the module on drawn weights.

        ``x`` is (B, ...), the same for all samples, or with ``views`` (S, B, ...), one view of the
        batch a sample. Several samples run in one pass by ``torch.vmap``; a single one runs as the
        plain module.
        """
        return self.apply_weights(x, self.draw(draws), views=views)

    def apply_weights(
        self, x: Tensor, weights: dict[str, Tensor], *, views: bool = False
    ) -> Tensor:
        """Return the outputs (S, B, ...) of the module on ``weights``, as ``draw`` returns them."""
        if len(next(iter(weights.values()))) == 1:
            single = {name: weight.squeeze(0) for name, weight in weights.items()}
            output: Tensor = functional_call(self.module, single, (x[0] if views else x,))
            return output.unsqueeze(0)

        def run(sample_weights: dict[str, Tensor], x: Tensor) -> Tensor:
            output: Tensor = functional_call(self.module, sample_weights, (x,))
            return output

        return over_samples(run, weights, x, views=views)

    def kl(self) -> Tensor:
        """Return KL(q || p), or the cold complexity term at T != 1, as a float64 scalar."""
        mus, log_sigmas = self._random()
        terms: list[Tensor] = [
            _KL.apply(self._taus[group.start], self.temperature, *mus[group], *log_sigmas[group])  # type: ignore[no-untyped-call]
            for group in groups(mus, self._taus)
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def predict(
        self, x: Tensor, *, samples: int, first: int = 0, samples_per_pass: int = 1
    ) -> Tensor:
        """Return the outputs (S, B, ...) for ``x`` (B, ...) under ``samples`` weight samples, in
        evaluation mode.

        Prediction has a stream of its own: sample ``first + s`` is the same network whenever and
        wherever it is asked for, so members can be spread over calls and ranks.
        """
        if samples < 1 or samples_per_pass < 1:
            raise ValueError(
                f"samples = {samples}, samples_per_pass = {samples_per_pass}: must be at least 1"
            )
        indices = range(first, first + samples)
        outputs: Tensor | None = None
        with self._evaluating():
            for i in range(0, samples, samples_per_pass):
                draws = self.draws(0, indices[i : i + samples_per_pass], Purpose.PREDICTION)
                part = self(x, draws)
                if outputs is None:  # filled, not joined at the end, which would hold all twice
                    outputs = part.new_empty((samples, *part.shape[1:]))
                outputs[i : i + len(part)] = part
                del part
        assert outputs is not None
        return outputs

    @torch.no_grad()
    def network(self, sample: int) -> Callable[[Tensor], Tensor]:
        """Return the network of one sample of ``predict`` as a function (B, ...) -> (B, ...).

        Its weights are drawn here, once, for forecasts that apply it many times.
        """
        drawn = self.draw(self.draws(0, (sample,), Purpose.PREDICTION))
        weights = {name: weight.squeeze(0) for name, weight in drawn.items()}

        @torch.no_grad()
        def run(x: Tensor) -> Tensor:
            with self._evaluating():
                output: Tensor = functional_call(self.module, weights, (x,))
            return output

        return run

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Hold the module in evaluation mode."""
        # Mode by mode: part of a network in training may be held in evaluation mode.
        modes = [(layer, layer.training) for layer in self.module.modules()]
        self.module.eval()
        try:
            yield
        finally:
            for layer, mode in modes:
                layer.training = mode


def _key(name: str) -> str:
    """Parameter names may not hold dots; slashes keep the path readable in state dicts."""
    return name.replace(".", "/")


class _KL(torch.autograd.Function):
    """E_q[-log p] - T H(q) of tensors with one tau, with its closed-form gradient: two passes where
    autograd takes eight.
    """

    @staticmethod
    def forward(ctx: Any, tau: float, temperature: float, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        ctx.tau, ctx.temperature = tau, temperature
        mu, log_sigma = _halves(parameters)
        # In float64: the sums of a large network are far larger than their difference.
        scratch = log_sigma.mul(2).exp_()
        squares = scratch.sum(dtype=torch.float64)
        squares += torch.mul(mu, mu, out=scratch).sum(dtype=torch.float64)
        constant = math.log(tau) + (1 - temperature) / 2 * math.log(2 * math.pi) - temperature / 2
        entropy_part = temperature * log_sigma.sum(dtype=torch.float64)
        return squares / (2 * tau**2) - entropy_part + mu.numel() * constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        mu, log_sigma = _halves(ctx.saved_tensors)
        shapes = [part.shape for part in ctx.saved_tensors[: len(ctx.saved_tensors) // 2]]
        scale = grads[0] / ctx.tau**2
        to_log_sigma = log_sigma.mul(2).exp_().mul_(scale).sub_(grads[0] * ctx.temperature)
        to_mus, to_log_sigmas = unflatten(mu * scale, shapes), unflatten(to_log_sigma, shapes)
        return None, None, *to_mus, *to_log_sigmas


def _halves(parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return mu and log_sigma (N,) of all tensors."""
    count = len(parameters) // 2
    return flatten(parameters[:count]), flatten(parameters[count:])
