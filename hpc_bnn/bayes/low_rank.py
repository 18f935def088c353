"""Gaussian posterior with a low-rank covariance over all random weights together.

    q(w) = N(mu, D + U U^T),   D = sigma^2 = exp(2 log_sigma),   prior p(w) = N(0, tau^2)

    w_s = mu + sigma * eps1_s + U eps2_s,   eps1_s (P,), eps2_s (R,) standard normal

    log det(D + U U^T) = sum log sigma^2 + log det M,   M = 1 + U^T D^-1 U   (R, R)

    KL(q || p) = KL at U = 0 + sum U^2 / (2 tau^2) - 1/2 log det M

eps2 is one vector for all layers, which U couples; at rank 0 this is the mean-field Gaussian.

What is trained is V = U / initial_sigma. Adam moves every number by about its learning rate, so it
would blow up a U of the size of sigma before the mean has learnt anything.

V starts as small keyed noise. At zero it would stay: the expected gradient there, that of the KL
and E[H] U of the loss with Hessian H, is zero.

Letters: S samples, P random weights, N those of a group, R rank, c = initial_sigma. Sources: Ong,
Nott, Smith 2018, arXiv:1701.03208, section 3 (the family and its draw); Tomczak, Swaroop, Turner
2020, "Efficient low rank Gaussian variational inference for neural networks" (its KL).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.draw import draw_together, flatten, groups, signed_streams, unflatten
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.noise import Key, Purpose, Stream, normals
from hpc_bnn.bayes.posterior import Weights, row_key
from hpc_bnn.bayes.prior import Positive, PriorSigma

START = 0.1  # of initial_sigma: the standard deviation that U gives a weight at the start
CACHED = 1 << 14  # weights at a time in the KL, whose rows of U stay in the cache of a CPU


class LowRank(Gaussian):
    """Give the weights of ``module`` a Gaussian posterior with covariance D + U U^T.

    Memory and exchange grow by R numbers a weight, beside the two of ``Gaussian``.

    Parameters
    ----------
    rank
        R, the columns of U; 0: none.
    antithetic
        Draw samples in mirrored pairs, mu +- (sigma * eps1 + U eps2).
    module, prior_sigma, initial_sigma, random, keep_noise, temperature, seed
        As of ``Gaussian``; ``initial_sigma`` is that of D.

    Attributes
    ----------
    columns
        V: one parameter (R, *shape) for each random weight, of the dtype of its log_sigma.
    unit
        c, a buffer: what V is counted in travels with it.

    Raises
    ------
    ValueError
        As ``Gaussian``; if the rank is no integer from 0 on.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        rank: Annotated[int, Interval(ge=0)] = 8,
        prior_sigma: PriorSigma = 1.0,
        initial_sigma: Positive = 0.02,
        random: Sequence[str] | Literal["layers"] | None = "layers",
        antithetic: bool = False,
        keep_noise: bool = False,
        temperature: Positive = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            prior_sigma=prior_sigma,
            initial_sigma=initial_sigma,
            random=random,
            antithetic=antithetic,
            keep_noise=keep_noise,
            temperature=temperature,
            seed=seed,
        )
        if not (isinstance(rank, int) and rank >= 0):
            raise ValueError(f"posterior.rank = {rank!r}: must be an integer, at least 0")
        self.rank = rank
        self.unit: Tensor
        self.register_buffer("unit", torch.tensor(float(initial_sigma), dtype=torch.float64))
        scale = START / math.sqrt(max(rank, 1))
        self.columns = nn.ParameterDict()
        for name, log_sigma, offset in zip(
            self.names, self._random()[1], self._offsets[:-1], strict=True
        ):
            shape = (rank, *log_sigma.shape)
            start = normals(
                Stream(seed, Purpose.INITIAL), shape, offset=rank * offset, device=log_sigma.device
            )
            self.columns[row_key(name)] = nn.Parameter(scale * start.to(log_sigma.dtype))

    @torch.no_grad()
    def factor(self) -> Weights:
        """Return U by name, each (R, *shape)."""
        return {name: self.columns[row_key(name)] * self.unit for name in self.names}

    def _columns(self) -> list[nn.Parameter]:
        return [self.columns[row_key(name)] for name in self.names]

    def mean_field(self) -> None:
        """Return None: weights depend on each other."""

    def sample(self, key: Key) -> Weights:
        """Return the drawn weights by name, each (S, *shape)."""
        if not self.rank:
            return super().sample(key)
        mus, log_sigmas = self._random()
        columns = self._columns()
        eps = self._shared_noise(key, log_sigmas[0])
        weights: list[Tensor] = []
        for group in groups(mus, [None] * len(mus)):
            means = _Means.apply(
                eps, key.preceding > 0, columns[group], *mus[group], *columns[group]
            )  # type: ignore[no-untyped-call]
            drawn = draw_together(
                means,
                log_sigmas[group],
                key,
                self._offsets[group.start],
                antithetic=self.antithetic,
                keep=self.keep_noise,
            )
            weights += [weight.to(mus[group.start].dtype) for weight in drawn]
        return dict(zip(self.names, weights, strict=True))

    def _shared_noise(self, key: Key, like: Tensor) -> Tensor:
        """Return c eps2 (S, R): of each stream, a stretch of its own for each purpose."""
        streams = signed_streams(replace(key, purpose=Purpose.FACTOR), antithetic=self.antithetic)
        offset = self.rank * key.purpose
        rows = [
            normals(stream, (self.rank,), offset=offset, sign=sign, device=like.device)
            for stream, sign in streams
        ]
        return torch.stack(rows).to(like.dtype) * self.unit

    def complexity(self) -> Tensor:
        """Return KL(q || p), or the cold complexity term at T != 1, as a float64 scalar."""
        diagonal = super().complexity()
        if not self.rank:
            return diagonal
        _, log_sigmas = self._random()
        more: Tensor = _Coupling.apply(  # type: ignore[no-untyped-call]
            self._taus, self.unit, self.temperature, *log_sigmas, *self._columns()
        )
        return diagonal + more

    def scales(self) -> list[str]:
        """Return the names of log_sigma and V: no weight decay pulls at them."""
        return [*super().scales(), *(f"columns.{row_key(name)}" for name in self.names)]

    def _wide(self) -> Iterator[Tensor]:
        yield from super()._wide()
        yield from self.columns.values()
        yield self.unit


class _Means(torch.autograd.Function):
    """The means mu + V c eps2 (S, N) of the samples of a group, from c eps2.

    A gradient of V is R times as large as the weights: from the second pass of a step on it is
    added to what the parameters have (``in_place``), without a tensor of its own. So ranks sum it
    after the last pass, not during it.
    """

    @staticmethod
    def forward(
        ctx: Any, eps: Tensor, in_place: bool, owners: Sequence[nn.Parameter], *parameters: Tensor
    ) -> Tensor:
        mus, columns = parameters[: len(owners)], parameters[len(owners) :]
        ctx.eps, ctx.in_place, ctx.owners, ctx.dtype = eps, in_place, owners, mus[0].dtype
        ctx.shapes = [mu.shape for mu in mus]
        return torch.addmm(flatten(mus).to(eps.dtype), eps, flatten(columns, samples=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        total = grad[0] if len(grad) == 1 else grad.sum(0)
        to_mus = unflatten(total.to(ctx.dtype), ctx.shapes)
        to_columns: list[Tensor | None] = [None] * len(ctx.owners)
        eps = ctx.eps.T  # (R, S)
        parts = torch.split_with_sizes(grad, [shape.numel() for shape in ctx.shapes], 1)
        for i, (owner, part) in enumerate(zip(ctx.owners, parts, strict=True)):
            if ctx.in_place and owner.grad is not None and owner.grad.is_contiguous():
                owner.grad.view(len(eps), -1).addmm_(eps, part)
            elif owner.requires_grad:
                to_columns[i] = (eps @ part).view_as(owner)
        return None, None, None, *to_mus, *to_columns


class _Coupling(torch.autograd.Function):
    """What U adds to the complexity term: sum U^2 / (2 tau^2) - T / 2 log det M.

    Of a weight with the row v in V, the gradients are c^2 (v / tau^2 - T M^-1 v / sigma^2) to v and
    c^2 T v^T M^-1 v / sigma^2 to log_sigma. Sums over weights are in float64.
    """

    @staticmethod
    def forward(
        ctx: Any, taus: list[float], unit: Tensor, temperature: float, *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(unit, *parameters)
        ctx.taus, ctx.temperature = taus, temperature
        squares = parameters[0].new_zeros((), dtype=torch.float64)
        gram = torch.eye(len(parameters[-1]), dtype=torch.float64, device=squares.device)
        shift = unit.log().to(parameters[0].dtype)
        for tau, log_sigma, columns, _ in _rows(taus, parameters):
            for s, v in _pieces(log_sigma, columns):
                whitened = v * torch.exp(shift - s)
                gram += whitened @ whitened.T
                norms = torch.bmm(v[:, None], v[:, :, None])  # of each row, squared
                squares += norms.sum(dtype=torch.float64) / (2 * tau**2)
        squares *= unit**2
        values, vectors = torch.linalg.eigh(gram)
        values = values.clamp(min=1)  # less is round-off, where a sigma nearly vanishes
        ctx.inverse = (vectors / values) @ vectors.T
        value: Tensor = squares - temperature / 2 * values.log().sum()
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        to_log_sigmas: list[Tensor] = []
        to_columns: list[Tensor] = []
        unit, *parameters = ctx.saved_tensors
        shift = unit.log().to(parameters[0].dtype)
        for tau, log_sigma, columns, shapes in _rows(ctx.taus, parameters):
            to_log_sigma, to_column = torch.empty_like(log_sigma), torch.empty_like(columns)
            scale = (grads[0] * (unit / tau) ** 2).to(columns.dtype)
            inverse = (grads[0] * ctx.temperature * ctx.inverse).to(columns.dtype)
            out = _pieces(to_log_sigma, to_column)
            for (s, v), (to_s, to_v) in zip(_pieces(log_sigma, columns), out, strict=True):
                solved = inverse @ v
                precision = torch.exp(2 * (shift - s))  # over c^2
                torch.sum(v * solved, 0, out=to_s).mul_(precision)
                torch.mul(solved, precision, out=to_v).neg_().add_(v * scale)
            to_log_sigmas += unflatten(to_log_sigma, shapes)
            to_columns += unflatten(to_column, shapes)
        return None, None, None, *to_log_sigmas, *to_columns


def _rows(
    taus: Sequence[float], parameters: Sequence[Tensor]
) -> Iterator[tuple[float, Tensor, Tensor, list[torch.Size]]]:
    """Yield tau, log_sigma (N,), V (R, N) and the shapes of the tensors of each group."""
    log_sigmas, columns = parameters[: len(taus)], parameters[len(taus) :]
    for group in groups(log_sigmas, taus):
        shapes = [log_sigma.shape for log_sigma in log_sigmas[group]]
        rows = flatten(log_sigmas[group]), flatten(columns[group], samples=True)
        yield taus[group.start], *rows, shapes


def _pieces(row: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the columns of ``row`` (N,) and ``rows`` (R, N), as many at a time as a cache holds."""
    size = CACHED if row.device.type == "cpu" else row.numel()
    yield from zip(torch.split(row, size), torch.split(rows, size, 1), strict=True)
