"""SWAG: a Gaussian around the iterates of each member, of their moments and last deviations.

Members are trained side by side, each from initial weights of its own (``members``): one is SWAG,
several are Multi-SWAG, a mixture of their Gaussians. From step ``start`` on, every
``collect_every`` steps, the n-th collection takes up the weights w of each member:

    mean     m_n = m_{n-1} + (w - m_{n-1}) / n
    variance v_n = (1 - 1/n) (v_{n-1} + (w - m_{n-1})^2 / n)    = mean(w^2) - mean(w)^2
    D        gets the column w - m_n, and keeps the last r of them

A prediction draws, with e1 (P,) and e2 (r,) standard normal,

    w = m + sqrt(scale) ( sqrt(v) e1 / sqrt(2) + D e2 / sqrt(2 (r - 1)) ),
    Cov[w] = scale / 2 (diag(v) + D D^T / (r - 1)),

with the number of columns there are in place of r while they are fewer. Sample i belongs to member
i mod K; e1 is of the stream (seed, PREDICTION, 0, i), e2 of (seed, DEVIATIONS, 0, i).

The Gaussian is that of a walk around an optimum: train with a learning rate that is constant, and
high enough to move, from ``start`` on. One that decays to zero has no variance left.

Letters: K members, S of them on this rank, r deviations, P weights of a network. A member takes the
memory of (2 + r) P numbers beside its weights and the optimizer, also in a checkpoint.

Sources: Maddox, Garipov, Izmailov, Vetrov, Wilson 2019, arXiv:1902.02476, algorithm 1 and equation
1 (SWAG); Wilson, Izmailov 2020, arXiv:2002.08791, section 5 (Multi-SWAG).
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from hpc_bnn.bayes.counter import Counter
from hpc_bnn.bayes.members import Members
from hpc_bnn.bayes.noise import Key, Purpose, Stream, normals
from hpc_bnn.bayes.posterior import Weights, row_key
from hpc_bnn.bayes.prior import Positive, PriorSigma, require_positive

log = logging.getLogger(__name__)

ENOUGH = 2  # collections: of one, there is no variance
MOMENTS = ("means", "variances", "deviations")


class SWAG(Members):
    """Give ``module`` the Gaussians of K members' iterates.

    Parameters
    ----------
    module
        Any module without BatchNorm. It is not copied, and its parameters are frozen.
    samples
        K.
    rank
        r, deviations that are kept of each member.
    start
        Steps before the first collection; None: half of ``steps``, or 0 where these are not known.
    collect_every
        Steps between collections; None: so many that there are 2 r, or 1 where ``steps`` are not
        known.
    scale
        Factor of the covariance of the draws.
    prior_sigma, initial_spread, seed
        As for all members (``members``).
    steps
        Steps of the whole training, where they are known; a settings file's own.

    Attributes
    ----------
    collected
        n, collections so far.
    means, variances, deviations
        Of each parameter, (S, *shape) and (S, r, *shape), in float32 or wider.

    Raises
    ------
    ValueError
        As members do, or if a number is out of range, or fewer than r collections are planned.
    """

    collected: Tensor
    predicts_collected = True
    draws = True

    def __init__(
        self,
        module: nn.Module,
        *,
        samples: int,
        rank: Annotated[int, Ge(2)] = 20,
        start: Annotated[int, Ge(0)] | None = None,
        collect_every: Annotated[int, Ge(1)] | None = None,
        scale: Positive = 1.0,
        prior_sigma: PriorSigma = 1.0,
        initial_spread: Positive | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            module,
            samples=samples,
            prior_sigma=prior_sigma,
            initial_spread=initial_spread,
            seed=seed,
        )
        require_positive(scale=scale)
        if start is None:
            start = 0 if steps is None else steps // 2
        if collect_every is None:
            collect_every = 1 if steps is None else max(1, (steps - start) // (2 * rank))
        for key, value, least in (
            ("rank", rank, 2),
            ("start", start, 0),
            ("collect_every", collect_every, 1),
        ):
            if value < least:
                raise ValueError(f"posterior.{key} = {value}: must be at least {least}")
        planned = rank if steps is None else max(0, steps - start) // collect_every
        if planned < rank:
            raise ValueError(
                f"posterior.rank = {rank}: {steps} steps hold {planned} collections, every "
                f"{collect_every} steps after step {start}, fewer than deviations to keep; train "
                "longer, or lower posterior.rank, posterior.start or posterior.collect_every"
            )
        self.rank, self.start, self.collect_every, self.scale = rank, start, collect_every, scale
        self.register_buffer("collected", torch.zeros((), dtype=torch.int64))
        self._counter = Counter()
        for what in MOMENTS:
            moments = nn.Module()
            for name, row in self.rows.items():
                zero = torch.zeros((), dtype=torch.promote_types(row.dtype, torch.float32))
                # One number, seen often, until ``initialise``.
                moments.register_buffer(name, zero.expand(self._shape(what, row)))
            self.add_module(what, moments)
        self._has_warned = False

    def _shape(self, what: str, row: Tensor) -> tuple[int, ...]:
        if what == "deviations":
            return (len(row), self.rank, *row.shape[1:])
        return tuple(row.shape)

    @torch.no_grad()
    def initialise(self) -> None:
        """Make the initial rows of the members that this process holds, and room for moments."""
        if self._started:
            return
        super().initialise()
        for what in MOMENTS:
            moments = self.get_submodule(what)
            for name, row in self.rows.items():
                zero = getattr(moments, name)
                setattr(moments, name, zero.new_zeros(self._shape(what, row)))

    def per_sample(self) -> Iterable[str]:
        """Return the names of rows and moments."""
        moments = [f"{what}.{row_key(name)}" for what in MOMENTS for name in self.names]
        return [*super().per_sample(), *moments]

    def prediction_samples(self, wish: int) -> int:
        """Return ``wish``: each member has as many samples as one asks for."""
        return wish

    @torch.no_grad()
    def collect(self, step: int) -> None:
        """Take up the weights of the own members, where ``step`` ends in a collection."""
        since = step + 1 - self.start
        if since <= 0 or since % self.collect_every:
            return
        number = self._counter.read(self.collected) + 1
        self._counter.write(self.collected, number)
        for name in self.names:
            mean, variance, deviations = self._moments(name)
            # In its place from the start: more tensors of this size would take most of the time.
            apart = deviations[:, (number - 1) % self.rank]
            torch.sub(self.rows[row_key(name)], mean, out=apart)
            mean.add_(apart, alpha=1 / number)
            variance.addcmul_(apart, apart, value=1 / number).mul_(1 - 1 / number)
            apart.mul_(1 - 1 / number)

    def _moments(self, name: str) -> list[Tensor]:
        return [getattr(self.get_submodule(what), row_key(name)) for what in MOMENTS]

    def sample(self, key: Key) -> Weights:
        """Return the weights of the members ``key.samples``, or for prediction draws around them,
        by name, each (S, *shape).

        Before there are two collections a prediction has the members' own weights, and a warning.
        """
        if key.purpose != Purpose.PREDICTION:
            return super().sample(key)
        assert self.members is not None
        members = [sample % self.members for sample in key.samples]
        # Of tensors without numbers, the draw is what takes most memory.
        traced = isinstance(self.collected, FakeTensor)
        collected = self.rank if traced else self._counter.read(self.collected)
        if collected < ENOUGH:
            self._warn(collected)
            return super().sample(self.key(key.step, members))
        columns = min(collected, self.rank)
        drawn = [
            self._draw(Stream(key.seed, key.purpose, key.step, sample), place, columns)
            for sample, place in zip(key.samples, self.places(members), strict=True)
        ]
        return dict(zip(self.names, map(torch.stack, zip(*drawn, strict=True)), strict=True))

    def _draw(self, stream: Stream, place: int, columns: int) -> list[Tensor]:
        """Return one draw around the member that stands at ``place``, a tensor for each name."""
        device, offset, drawn = self.collected.device, 0, []
        e2 = normals(replace(stream, purpose=Purpose.DEVIATIONS), (self.rank,), device=device)
        for name in self.names:
            mean, variance, deviations = (each[place] for each in self._moments(name))
            e1 = normals(stream, mean.shape, offset=offset, device=device)
            offset += e1.numel()
            weight = around(mean, variance, deviations, e1, e2, columns=columns, scale=self.scale)
            drawn.append(weight.to(self.rows[row_key(name)].dtype))
        return drawn

    def _warn(self, collected: int) -> None:
        if not self._has_warned:
            log.warning(
                "predicting with the weights of the members themselves: %d collections after step "
                "%d, and SWAG needs %d",
                collected,
                self.start,
                ENOUGH,
            )
        self._has_warned = True


def around(
    mean: Tensor,
    variance: Tensor,
    deviations: Tensor,
    e1: Tensor,
    e2: Tensor,
    *,
    columns: int,
    scale: float,
) -> Tensor:
    """Return m + sqrt(scale / 2) (sqrt(v) e1 + D e2 / sqrt(columns - 1)) in the dtype of ``mean``.

    mean, variance, e1: one shape. deviations: (r, *shape). e2: (r,). columns: of D, those in use;
    the others are zero.
    """
    low_rank = torch.tensordot(e2.to(mean.dtype), deviations, 1) / math.sqrt(columns - 1)
    apart: Tensor = math.sqrt(scale / 2) * (variance.sqrt() * e1 + low_rank)
    return mean + apart
