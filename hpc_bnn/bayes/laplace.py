"""Last-layer Laplace: a Gaussian around the trained last linear layer, all else as it is.

    q(theta) = N(theta*, (H + delta I)^-1)                theta = [W | b] of the layer z = W phi + b

    H = sum_n J_n^T Lambda_n J_n                          generalised Gauss-Newton matrix, full
    Lambda_n: Hessian of -log p(y_n | f_n) in the outputs f_n

    log Z(delta) = log p(D | theta*) + P/2 log delta - delta/2 |theta*|^2 - 1/2 log det(H + delta I)

``fit`` takes one pass over the training set after training, and the prior precision delta that
maximises the evidence Z. Its derivative in log delta is half of

    sum_i h_i / (h_i + delta) - delta |theta*|^2          h_i: eigenvalues of H

which falls with delta, so there is one maximum. For a network that is linear in theta and has a
Gaussian likelihood everything is exact where theta* is the maximum of the posterior.

Outputs with independent noise (``gaussian_nll``) have a block of H each; classes share one.

Letters: B examples, N rows of phi (B, or B times tokens), F features and the 1 of the bias, O
outputs of the layer, P = O F parameters, G blocks of n = P / G. Sources: Daxberger et al. 2021,
arXiv:2106.14806, eq. 2-5; Kristiadi, Hein, Hennig 2020, arXiv:2002.10118 (last layer);
MacKay 1992, doi:10.1162/neco.1992.4.3.415 (evidence).
"""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from hpc_bnn.bayes.curvature import Likelihood, summed_curvature
from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.noise import Key, Purpose, Stream, normals
from hpc_bnn.bayes.posterior import Posterior, Weights
from hpc_bnn.group import ALONE, Group

LARGEST_BYTES = 1 << 32  # of H in float64; its Cholesky factor and its sums take as much again


class LastLayerLaplace(Posterior):
    """Give the last linear layer of a trained ``module`` a Gaussian posterior, by ``fit``.

    Parameters
    ----------
    module
        The trained network; not copied.
    layer
        Name of the ``nn.Linear``; ``""``: the last one of ``module.named_modules()``.
    blocks
        G, as ``fit`` leaves it, for a posterior that is read from a file; 0: not fitted yet.
    seed
        Key of all weight draws; the same on every rank.

    Attributes
    ----------
    factor
        (G, n, n) lower Cholesky factor of H + delta I, float64.
    prior_precision, log_evidence
        delta and log Z(delta), float64 scalars.

    Raises
    ------
    ValueError
        If there is no such layer, it is tied to another or under a parametrization, or H does not
        fit ``LARGEST_BYTES``.
    """

    def __init__(
        self, module: nn.Module, *, layer: str = "", blocks: int = 0, seed: int = 0
    ) -> None:
        linears = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
        if not linears or (layer and layer not in linears):
            raise ValueError(
                f"posterior.layer = {layer!r}: expected a linear layer of the network; it has "
                f"{', '.join(linears) or 'none'}"
            )
        self.layer = layer or linears[-1]
        linear = module.get_submodule(self.layer)
        own = {id(p) for p in linear.parameters()}
        names = [name for name, p in module.named_parameters() if id(p) in own]
        super().__init__(module, names, seed=seed)
        if is_parametrized(linear) or any(len(self._places[name]) > 1 for name in names):
            raise ValueError(
                f"posterior.layer = {self.layer!r}: is under a parametrization or tied to another "
                "layer; name one with weights of its own, or take it off (posterior.to_module)"
            )
        self.factor: Tensor
        self.prior_precision: Tensor
        self.log_evidence: Tensor
        self.register_buffer("factor", self._empty_factor(blocks))
        for name in ("prior_precision", "log_evidence"):
            self.register_buffer(name, torch.full((), math.nan, dtype=torch.float64))

    @property
    def _linear(self) -> nn.Linear:
        return cast(nn.Linear, self.module.get_submodule(self.layer))

    @torch.no_grad()
    def sample(self, key: Key) -> Weights:
        """Return drawn weights theta* + L^-T eps of the layer, each (S, *shape), where L is
        ``factor``, a continuous function of H: eigenvectors would turn with its last bits.
        """
        if not len(self.factor):
            raise ValueError("LastLayerLaplace is not fitted yet; call fit(batches, loss)")
        wide, drawn = self.factor.double(), []
        for sample in key.samples:
            stream = Stream(self.seed, Purpose.LAPLACE, key.step, sample)
            eps = normals(stream, (*wide.shape[:2], 1), device=wide.device).double()
            drawn.append(torch.linalg.solve_triangular(wide.mT, eps, upper=True).flatten())
        centre, features = self._centre(), self._linear.in_features
        theta = centre + torch.stack(drawn).view(-1, *centre.shape)
        theta = theta.to(self._linear.weight.dtype)
        parts = (theta[..., :features], theta[..., features:].squeeze(-1))
        return dict(zip(self.names, parts, strict=False))

    def complexity(self) -> Tensor:
        """Return 0: nothing is trained."""
        return torch.zeros((), dtype=torch.float64, device=self.factor.device)

    def check_samples(self, samples: int, *, samples_per_pass: int) -> None:
        """Raise ValueError: it is fitted to a trained network."""
        raise ValueError(
            "LastLayerLaplace is fitted to a trained network, not trained: train with another "
            "posterior, then hpc-bnn laplace RUN, or fit(batches, loss)"
        )

    @torch.no_grad()
    def fit(
        self,
        batches: Iterable[tuple[Inputs, Tensor]],
        loss: nn.Module,
        group: Group = ALONE,
        *,
        prior_precision: float | None = None,
    ) -> None:
        """Collective over ``group``: compute H from the training set, and the posterior.

        Parameters
        ----------
        batches
            Pairs (x, y); those of all ranks together hold each training example once.
        loss
            ``categorical_nll``, or ``gaussian_nll`` with a fixed or learned variance.
        group
            Ranks with other examples, such as the data axis.
        prior_precision
            delta; None: the one that maximises the evidence.

        Raises
        ------
        ValueError
            On every rank: if the loss has no such likelihood, H is too large or not finite, or the
            outputs are more than the layer's in other places and units.
        """
        likelihood: Likelihood | None = getattr(loss, "likelihood", None)
        if likelihood is None:
            raise ValueError(
                f"loss = {type(loss).__name__}: the Laplace approximation needs a likelihood: "
                "categorical_nll, or gaussian_nll with a fixed or learned variance"
            )
        if prior_precision is not None and not 0 < prior_precision < math.inf:
            raise ValueError(f"prior_precision = {prior_precision!r}: must be a positive number")
        outputs = self._linear.out_features
        factor = self._empty_factor(outputs if likelihood.independent else 1)
        sums, log_p = group.together(
            lambda: summed_curvature(self, self.layer, batches, likelihood),
            name="last layer: training set",
        )
        log_p = group.all_reduce(log_p, reduction="sum", name="last layer: log likelihood")
        sums = group.all_reduce(sums, reduction="sum", name="last layer: curvature")
        ordered = sums if likelihood.independent else sums.transpose(1, 2)
        hessian = ordered.reshape(factor.shape)
        del sums, ordered, factor
        if not (bool(hessian.isfinite().all()) and bool(log_p.isfinite())):
            raise ValueError(
                "the curvature or the likelihood of the training set is not finite: the network "
                "has diverged, or an example has values that are not finite"
            )
        self._take(hessian, log_p, prior_precision)

    def _take(self, hessian: Tensor, log_p: Tensor, prior_precision: float | None) -> None:
        """Set the posterior from H (G, n, n) and the log-likelihood."""
        curvatures = torch.linalg.eigvalsh(hessian).clamp_min(0).flatten()
        square = float(self._centre().square().sum())
        delta = prior_precision or best_precision(curvatures, square)
        hessian.diagonal(dim1=-2, dim2=-1).add_(delta)
        self.factor = torch.linalg.cholesky(hessian).contiguous()  # as it comes back from a file
        self.prior_precision.fill_(delta)
        fit = len(curvatures) * math.log(delta) - delta * square - (curvatures + delta).log().sum()
        self.log_evidence.copy_(log_p + fit / 2)

    def _empty_factor(self, blocks: int) -> Tensor:
        """Return room for G blocks, refusing more than ``LARGEST_BYTES``."""
        outputs = self._linear.out_features
        if blocks not in (0, 1, outputs):
            raise ValueError(
                f"posterior.blocks = {blocks}: expected 1, or {outputs}, one an output of layer "
                f"{self.layer}"
            )
        parameters = self._centre().numel()
        size = parameters // max(1, blocks)
        if 8 * blocks * size**2 > LARGEST_BYTES:
            raise ValueError(
                f"posterior.layer = {self.layer!r}: {parameters:,} weights have a curvature matrix "
                f"of {8 * blocks * size**2 / 2**30:.1f} GiB; at most {LARGEST_BYTES >> 30} GiB are "
                "supported: use a network whose last layer is narrower"
            )
        device = self._linear.weight.device
        return torch.zeros((blocks, size, size), dtype=torch.float64, device=device)

    def _centre(self) -> Tensor:
        """Return theta* = [W | b] (O, F) in float64."""
        weight, bias = self._linear.weight.detach().double(), self._linear.bias
        return weight if bias is None else torch.cat([weight, bias.detach().double()[:, None]], 1)


def best_precision(curvatures: Tensor, square: float) -> float:
    """Return the prior precision delta of the largest evidence, by bisection of its logarithm.

    curvatures: (P,) eigenvalues of H. square: |theta*|^2.

    Raises
    ------
    ValueError
        If there is no largest: no weight differs from 0, or no data speak about them.
    """
    if square == 0 or float(curvatures.max()) == 0:
        raise ValueError(
            "prior_precision: the evidence has no maximum, since the weights of the last layer or "
            "their curvature are 0; train the network, or give prior_precision"
        )
    curvatures = curvatures[curvatures > 0]
    high = math.log(len(curvatures) / square)
    low = high - 1.0

    def rises(log_delta: float) -> bool:
        delta = math.exp(log_delta)
        return float((curvatures / (curvatures + delta)).sum()) > delta * square

    while not rises(low):
        low -= 2 * (high - low)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return math.exp((low + high) / 2)
