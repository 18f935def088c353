"""Rank-1 posterior: random factors of the rows and columns of each weight matrix.

    w_s = W * (r_s v_s^T),   r_s = N(1 + m_r, sigma_r^2) (A,),   v_s = N(1 + m_v, sigma_v^2) (I,)

    prior p(r) = p(v) = N(1, tau^2),   p(W) = N(0, rho^2)

    complexity = KL(q(r) || p(r)) + KL(q(v) || p(v)) - log p(W)

W is one matrix for all weight samples, found by its most probable value. So a layer has A + I
random numbers, not A I: few to draw, and little that the KL pulls to the prior.

Of a weight (A, I, ...), r belongs to the first axis and v to the second: outputs and inputs of a
linear layer, output and input channels of a convolution, whose points share a factor; the inputs of
all its groups share v. Biases and whatever else has fewer than two axes stay deterministic.

Letters: S samples, A outputs, I inputs. Source: Dusenberry et al. 2020, arXiv:2005.07186, section 3
(posterior, and the priors over factors), with one component in place of a mixture.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights, row_key
from hpc_bnn.bayes.prior import Positive, PriorSigma, negative_log_prior, require_positive, taus
from hpc_bnn.bayes.selection import random_names


class Rank1(Posterior):
    """Give the rows and columns of the weight matrices of ``module`` Gaussian factors.

    Parameters
    ----------
    module
        Any module without BatchNorm. It is not copied: its parameters are trained in place, those
        of matrices as W.
    prior_sigma
        Standard deviation tau of the prior of a factor.
    initial_sigma
        Standard deviation of a factor at the start, where its mean is 1.
    weight_sigma
        Standard deviation rho of the prior of W, a weight decay of 1 / (N rho^2) with N training
        examples; ``"fan_in"``: ``1 / sqrt(fan_in)`` of each layer.
    random
        Shell patterns over parameter names; ``"layers"``: linear, convolution, recurrent and
        attention layers (``selection``). Those with fewer than two axes are left out.
    antithetic
        Draw the factors in mirrored pairs.
    temperature
        Of the factors: 1 for the Bayesian posterior, below 1 for a cold one.
    seed
        Key of all weight draws; the same on every rank.

    Attributes
    ----------
    factors
        The posterior over m_r and m_v of all matrices, ``NAME/r`` (A,) and ``NAME/v`` (I,).

    Raises
    ------
    ValueError
        If a scale is not positive, ``selection.random_names`` refuses the module or no random
        weight is a matrix.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        prior_sigma: Positive = 0.1,
        initial_sigma: Positive = 0.05,
        weight_sigma: PriorSigma = 1.0,
        random: Sequence[str] | Literal["layers"] | None = "layers",
        antithetic: bool = False,
        temperature: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        selected = random_names(module, None if random == "layers" else random)
        names = [name for name in selected if module.get_parameter(name).dim() > 1]
        if not names:
            raise ValueError(
                f"posterior.random: none of {', '.join(selected)} is a matrix, which has rows and "
                "columns to multiply"
            )
        super().__init__(module, names, seed=seed)
        require_positive(prior_sigma=prior_sigma)
        if weight_sigma != "fan_in":
            require_positive(weight_sigma=weight_sigma)
        self.weight_sigma = weight_sigma
        self._rhos = taus(module, self.names, weight_sigma)
        means = nn.ParameterDict()
        for name, weight in zip(self.names, self._matrices(), strict=True):
            for axis, factor in enumerate("rv"):
                zero = weight.detach().new_zeros(weight.shape[axis])
                means[f"{row_key(name)}/{factor}"] = nn.Parameter(zero)
        self.factors = Gaussian(
            means,
            prior_sigma=prior_sigma,
            initial_sigma=initial_sigma,
            random=["*"],
            antithetic=antithetic,
            temperature=temperature,
            seed=seed,
        )

    def _matrices(self) -> list[nn.Parameter]:
        return [self.module.get_parameter(name) for name in self.names]

    def sample(self, key: Key) -> Weights:
        """Return the drawn weights by name, each (S, *shape)."""
        return self._products(self.factors.sample(key))

    @torch.no_grad()
    def mean(self) -> Weights:
        """Return the mean of the drawn weights, the product of those of independent factors."""
        means = {name: m[None] for name, m in self.factors.module.named_parameters()}
        return {name: weight[0] for name, weight in self._products(means).items()}

    def _products(self, drawn: Weights) -> Weights:
        return {
            name: _Product.apply(weight, *(drawn[f"{row_key(name)}/{factor}"] for factor in "rv"))  # type: ignore[no-untyped-call]
            for name, weight in zip(self.names, self._matrices(), strict=True)
        }

    def scales(self) -> list[str]:
        """Return the names of the log_sigma of the factors."""
        return [f"factors.{name}" for name in self.factors.scales()]

    def check_samples(self, samples: int, *, samples_per_pass: int) -> None:
        """Raise ValueError unless training can draw so many weight samples."""
        self.factors.check_samples(samples, samples_per_pass=samples_per_pass)

    def complexity(self) -> Tensor:
        """Return the KL of the factors and -log p(W) as a float64 scalar."""
        return self.factors.complexity() + negative_log_prior(self._matrices(), self._rhos)


class _Product(torch.autograd.Function):
    """W * (1 + r) (1 + v)^T (S, A, I, ...) of W (A, I, ...), r (S, A) and v (S, I), computed in
    float32 where the network is in half precision.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, r: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(weight, r, v)
        matrix, rows, columns = _broadcast(weight, r, v)
        return (matrix * rows).mul_(columns).view(len(r), *weight.shape).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        weight, r, v = ctx.saved_tensors
        matrix, rows, columns = _broadcast(weight, r, v)
        grad = grads[0].to(rows.dtype).reshape(len(r), *matrix.shape)
        pulled = (grad * matrix).sum(-1)  # (S, A, I)
        to_r = torch.bmm(pulled, columns[:, 0])  # (S, A, 1)
        to_v = torch.bmm(rows[..., 0].mT, pulled)  # (S, 1, I)
        to_weight = (grad * rows).mul_(columns).sum(0).view_as(weight)
        return to_weight.to(weight.dtype), to_r[..., 0].to(r.dtype), to_v[:, 0].to(v.dtype)


def _broadcast(weight: Tensor, r: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return W (A, I, n), 1 + r (S, A, 1, 1) and 1 + v (S, 1, I, 1) in at least float32."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    rows, columns = 1 + r.to(wide), 1 + v.to(wide)
    matrix = weight.to(wide).reshape(*weight.shape[:2], -1)
    return matrix, rows[:, :, None, None], columns[:, None, :, None]
