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
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.draw import Draws, draw_together
from hpc_bnn.bayes.flat import groups
from hpc_bnn.bayes.held import held, places_of
from hpc_bnn.bayes.impure import Surroundings
from hpc_bnn.bayes.inputs import Inputs, map_tensors, versions
from hpc_bnn.bayes.kl import complexity
from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.bayes.outputs import in_one_pass, only_tensor
from hpc_bnn.bayes.purity import check_pure
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
        One parameter for each random weight, of its shape; float32 for a network in half precision,
        whose steps it would lose.
    writes_to_input
        Whether the module changes its input in place, so that each pass gets a copy; None: not
        known before the first pass.

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
        _refuse_other_numbers(mus)
        self.log_sigma = nn.ParameterDict(
            {
                _key(name): nn.Parameter(
                    torch.full_like(mu, math.log(initial_sigma), dtype=_at_least_float32(mu.dtype))
                )
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
        self._places = places_of(module, self.names)
        self._offsets = list(accumulate(sizes, initial=0))
        self.writes_to_input: bool | None = None
        self._checked = False

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

    def forward(self, x: Inputs, draws: Draws, *, views: bool = False) -> Tensor:
        """Return the outputs (S, B, ...) of the module on drawn weights.

        ``x`` is a tensor (B, ...), or a tuple, list or dict of such, the same for all samples, or
        with ``views`` (S, B, ...), one view of the batch a sample. Several samples run in one pass
        by ``torch.vmap``; a single one runs as the plain module.
        """
        return self.apply_weights(x, self.draw(draws), views=views)

    def apply_weights(
        self, x: Inputs, weights: Mapping[str, Tensor], *, views: bool = False
    ) -> Tensor:
        """Return the outputs (S, B, ...) of the module on ``weights``, as ``draw`` returns them.

        A module that writes to its input gets a copy.

        Raises
        ------
        ValueError
            If the module does not give one tensor.
        """
        before = versions(x)
        pristine = self.writes_to_input is False and before is not None
        own = x if pristine else map_tensors(torch.clone, x)
        before = versions(own)
        if len(next(iter(weights.values()))) == 1:
            single = {name: weight.squeeze(0) for name, weight in weights.items()}
            with self.holding(single):
                output = self.module(map_tensors(lambda v: v[0], own) if views else own)
            outputs = only_tensor(output).unsqueeze(0)
        else:
            each = (0, 0 if views else None)
            with in_one_pass(len(next(iter(weights.values())))):
                outputs = torch.vmap(self._run, in_dims=each)(dict(weights), own)
        if before is not None and versions(own) != before:
            if pristine:
                raise RuntimeError(
                    "the network wrote to its input in this pass, but not in the first one: use "
                    "operations that are not in place on the input"
                )
            self.writes_to_input = True
        elif self.writes_to_input is None and before is not None:
            self.writes_to_input = False
        return outputs

    def _run(self, weights: Mapping[str, Tensor], x: Inputs) -> Tensor:
        with self.holding(weights):
            return only_tensor(self.module(x))

    @torch.no_grad()
    def check(
        self,
        draws: Draws,
        x: Inputs,
        *,
        gradients: bool,
        surroundings: Surroundings = contextlib.nullcontext,
    ) -> list[str]:
        """Raise ImpureError unless the module is a pure function of its weights and its input
        ``x``; return the names of drawn weights that no output depends on
        (``hpc_bnn.bayes.purity``). Prediction does not check again.
        """
        unused = check_pure(
            self, self.draw(draws), x, gradients=gradients, surroundings=surroundings
        )
        self._checked = True
        return unused

    def holding(self, weights: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the module has ``weights`` (*shape) instead of its own, for
        backward passes that run parts of the network again.
        """
        return held(self._places, weights)

    def kl(self) -> Tensor:
        """Return KL(q || p), or the cold complexity term at T != 1, as a float64 scalar."""
        mus, log_sigmas = self._random()
        terms = [
            complexity(
                mus[group],
                log_sigmas[group],
                tau=self._taus[group.start],
                temperature=self.temperature,
            )
            for group in groups(mus, self._taus)
        ]
        return torch.stack(terms).sum()

    @torch.no_grad()
    def predict(
        self,
        x: Inputs,
        *,
        samples: int,
        first: int = 0,
        samples_per_pass: int = 1,
        check: bool = True,
    ) -> Tensor:
        """Return the outputs (S, B, ...) for ``x`` (B, ...) under ``samples`` weight samples, in
        evaluation mode.

        Prediction has a stream of its own: sample ``first + s`` is the same network whenever and
        wherever it is asked for, so members can be spread over calls and ranks.

        Raises
        ------
        ImpureError
            From the first call with ``check``: if the network is not a pure function of its weights
            and input (``hpc_bnn.bayes.purity``).
        """
        if samples < 1 or samples_per_pass < 1:
            raise ValueError(
                f"samples = {samples}, samples_per_pass = {samples_per_pass}: must be at least 1"
            )
        indices = range(first, first + samples)
        outputs: Tensor | None = None
        with self._evaluating():
            if check and not self._checked:
                self.check(self.draws(0, indices[:1], Purpose.PREDICTION), x, gradients=False)
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
    def network(self, sample: int) -> Callable[[Inputs], Tensor]:
        """Return the network of one sample of ``predict`` as a function (B, ...) -> (B, ...).

        Its weights are drawn here, once, for forecasts that apply it many times.
        """
        weights = self.draw(self.draws(0, (sample,), Purpose.PREDICTION))

        @torch.no_grad()
        def run(x: Inputs) -> Tensor:
            with self._evaluating():
                return self.apply_weights(x, weights)[0]

        return run

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Gaussian":
        """Keep log_sigma in float32 where ``to(torch.bfloat16)`` puts the network in it."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for log_sigma in self.log_sigma.values():
            log_sigma.data = log_sigma.data.to(_at_least_float32(log_sigma.dtype))
        return self

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


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _refuse_other_numbers(mus: Mapping[str, Tensor]) -> None:
    for name, mu in mus.items():
        if not mu.is_floating_point():
            what = "complex numbers" if mu.is_complex() else f"{mu.dtype}"
            raise ValueError(
                f"{name} holds {what}, which have no Gaussian here: keep a complex weight as two "
                "real ones (torch.view_as_complex of a parameter (..., 2)), or leave it "
                "deterministic by naming the others with posterior.random"
            )


def _key(name: str) -> str:
    """Parameter names may not hold dots; slashes keep the path readable in state dicts."""
    return name.replace(".", "/")
