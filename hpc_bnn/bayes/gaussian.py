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

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.draw import draw_together, groups
from hpc_bnn.bayes.gaussian_kl import kl
from hpc_bnn.bayes.mean_field import MeanField, RandomWeight
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights, row_key
from hpc_bnn.bayes.prior import Positive, PriorSigma, require_positive, taus
from hpc_bnn.bayes.selection import random_names


class Gaussian(Posterior):
    """Give the weights of ``module`` a mean-field Gaussian posterior.

    Parameters
    ----------
    module
        Any module; its BatchNorm frozen or replaced (``batchnorm``). It is not copied: its
        parameters are trained in place as the means.
    prior_sigma
        Standard deviation tau of the prior, or ``"fan_in"``: ``1 / sqrt(fan_in)`` of each layer.
    initial_sigma
        Standard deviation of q at the start.
    random
        Shell patterns over parameter names; ``"layers"``: linear, convolution, recurrent and
        attention layers (``selection``).
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
        One parameter for each random weight, of its shape; float32 for a network in half precision,
        whose steps it would lose.

    Raises
    ------
    ValueError
        If a scale is not positive, ``selection.random_names`` refuses the module or a random weight
        is not a real number.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prior_sigma: PriorSigma = 1.0,
        initial_sigma: Positive = 0.02,
        random: Sequence[str] | Literal["layers"] | None = "layers",
        antithetic: bool = False,
        keep_noise: bool = False,
        temperature: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        patterns = None if random == "layers" else random
        super().__init__(module, random_names(module, patterns), seed=seed)
        require_positive(initial_sigma=initial_sigma, temperature=temperature)
        self._taus = taus(module, self.names, prior_sigma)
        self.antithetic, self.keep_noise = antithetic, keep_noise
        self.prior_sigma, self.temperature = prior_sigma, temperature
        mus = {name: module.get_parameter(name) for name in self.names}
        self.log_sigma = nn.ParameterDict(
            {
                row_key(name): nn.Parameter(
                    torch.full_like(mu, math.log(initial_sigma), dtype=_at_least_float32(mu.dtype))
                )
                for name, mu in mus.items()
            }
        )
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
        return mus, [getattr(self.log_sigma, row_key(name)) for name in self.names]

    def sample(self, key: Key) -> Weights:
        """Return the drawn weights by name, each (S, *shape)."""
        mus, log_sigmas = self._random()
        weights: list[Tensor] = []
        for group in groups(mus, [None] * len(mus), copied=False):
            weights += draw_together(
                mus[group],
                log_sigmas[group],
                key,
                self._offsets[group.start],
                antithetic=self.antithetic,
                keep=self.keep_noise,
            )
        return dict(zip(self.names, weights, strict=True))

    def scales(self) -> Iterable[str]:
        """Return the names of log_sigma."""
        return [f"log_sigma.{row_key(name)}" for name in self.names]

    def mean_field(self) -> MeanField | None:
        """Return mu, log_sigma and tau by random weight."""
        parts = zip(self.names, *self._random(), self._taus, strict=True)
        return MeanField([RandomWeight(*each) for each in parts], self.temperature)

    def check_samples(self, samples: int, *, samples_per_pass: int) -> None:
        """Raise ValueError unless training can draw so many weight samples."""
        super().check_samples(samples, samples_per_pass=samples_per_pass)
        if self.antithetic and samples % 2:
            raise ValueError(f"posterior.samples = {samples}: antithetic pairs need an even number")

    def complexity(self) -> Tensor:
        """Return KL(q || p), or the cold complexity term at T != 1, as a float64 scalar."""
        return kl(*self._random(), self._taus, self.temperature)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Gaussian":
        """Keep ``_wide`` in float32 where ``to(torch.bfloat16)`` puts the network in it."""
        before = [parameter.data for parameter in self._wide()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for old, parameter in zip(before, self._wide(), strict=True):
            wide = _at_least_float32(parameter.dtype)
            if wide != parameter.dtype:  # of the old values, which the narrow type has rounded
                parameter.data = old.to(device=parameter.device, dtype=wide)
        return self

    def _wide(self) -> Iterable[Tensor]:
        """Return what stays in float32."""
        return self.log_sigma.values()


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
