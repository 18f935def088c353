"""Members: K networks side by side, each with weights of its own.

Every trained parameter of the module has a row for each member; the module's own parameters are
frozen, and give names, shapes and the scale of the initial weights. Frozen parameters and buffers
are shared by all members.

Member k starts from weights that are a pure function of the seed, k and the given weights w0, the
same on any grid:

    w = mean(w0) + std(w0) eps        each member anew: moments of each tensor of the module
    w = w0 + spread rms(w0) eps       all near the given weights, such as pretrained ones

with eps of the stream (seed, INITIAL, 0, k). What is constant in the module stays what it is: gains
of one, biases of zero.

Letters: K members, S of them on this rank.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hpc_bnn.bayes.noise import Key, Purpose, Stream, normals
from hpc_bnn.bayes.posterior import Posterior, Weights, copy_tensors, row_key
from hpc_bnn.bayes.prior import Positive, PriorSigma, negative_log_prior, require_positive, taus
from hpc_bnn.bayes.selection import random_names


class Members(Posterior):
    """K sets of weights of ``module`` under the prior N(0, tau^2).

    Rows are made when they are first needed, after ``hold``: no process makes those of all members
    where it holds a part of them. Until then they are NaN and take no memory.

    Parameters
    ----------
    module
        Any module without BatchNorm. It is not copied, and its parameters are frozen.
    samples
        K.
    prior_sigma
        Standard deviation tau of the prior, or ``"fan_in"``: ``1 / sqrt(fan_in)`` of each layer.
    initial_spread
        None: each member starts from weights of its own; a number: all start from the given ones,
        moved by so many times the root mean square of each tensor.
    seed
        Key of the initial weights; the same on every rank.

    Attributes
    ----------
    rows
        One parameter (S, *shape) for each trained one of the module, of its dtype.
    taus
        tau of each of ``names``.

    Raises
    ------
    ValueError
        If a number is not positive, nothing of the module is trained, ``selection.random_names``
        refuses it, or its weights are such that all members would start as one.
    """

    draws = False

    def __init__(
        self,
        module: nn.Module,
        *,
        samples: int,
        prior_sigma: PriorSigma = 1.0,
        initial_spread: Positive | None = None,
        seed: int = 0,
    ) -> None:
        if samples < 1:
            raise ValueError(f"posterior.samples = {samples}: must be at least 1, one a member")
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError(
                f"{type(module).__name__} has no parameter that is trained, so members would be "
                "equal; thaw some with requires_grad_()"
            )
        names = random_names(module, list(trained))
        super().__init__(module, names, seed=seed, members=samples)
        if initial_spread is not None:
            require_positive(initial_spread=initial_spread)
        self.prior_sigma, self.initial_spread = prior_sigma, initial_spread
        self.taus = taus(module, names, prior_sigma)
        if not any(_varies(trained[name], around=initial_spread) for name in names):
            raise ValueError(
                f"every weight of {type(module).__name__} is constant, so its members would start "
                "as one network and stay it; give the module random initial weights"
            )
        self.rows = nn.ParameterDict()
        for name in names:
            trained[name].requires_grad_(False)
            # One number, seen K times.
            nothing = trained[name].new_full((), torch.nan)
            self.rows[row_key(name)] = nn.Parameter(nothing.expand(samples, *trained[name].shape))
        self._started = False

    @torch.no_grad()
    def initialise(self) -> None:
        """Make the initial rows of the members that this process holds."""
        if not self._started:
            self._started = True
            self._make_rows()

    def _make_rows(self) -> None:
        given = [self.module.get_parameter(name) for name in self.names]
        offsets = accumulate((w.numel() for w in given), initial=0)
        for name, w, offset in zip(self.names, given, offsets, strict=False):
            centre, scale = self._centre_and_scale(w.double())
            made = w.new_empty((len(self.own_samples), *w.shape))
            for row, member in zip(made, self.own_samples, strict=True):
                stream = Stream(self.seed, Purpose.INITIAL, 0, member)
                eps = normals(stream, w.shape, offset=offset, device=w.device)
                row.copy_(centre + scale * eps.double())
            self.rows[row_key(name)].data = made

    @torch.no_grad()
    def start_from(self, other: Posterior) -> None:
        """Start with the rows of ``other`` where it has members, as many as here; else with copies
        of the network of its mean, moved by ``initial_spread``.

        Raises
        ------
        ValueError
            If it is of another network or has other members, or there is no ``initial_spread``.
        """
        self.initialise()
        if isinstance(other, Members):
            if other.members != self.members:
                raise ValueError(
                    f"it has {other.members} members, and posterior.samples = {self.members}; set "
                    "as many, or start from a run without members"
                )
            copy_tensors(_starting_point(other), _starting_point(self))
            return
        if self.initial_spread is None:
            raise ValueError(
                "posterior.initial_spread = None gives each member initial weights of its own, "
                "none of the network that it would start from; set it, such as to 0.05"
            )
        super().start_from(other)
        self._make_rows()

    def _centre_and_scale(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the initial rows of a parameter scatter around and how far, in float64."""
        if self.initial_spread is not None:
            return w, self.initial_spread * w.square().mean().sqrt()
        low, high = w.aminmax()
        constant = low == high
        # Not its mean, which is rounded.
        return torch.where(constant, w, w.mean()), torch.where(constant, 0.0, w.std(correction=0))

    def sample(self, key: Key) -> Weights:
        """Return the weights of the members ``key.samples`` by name, each (S, *shape)."""
        self.initialise()
        places = self.places(key.samples)
        if places == list(range(len(self.own_samples))):
            return {name: self.rows[row_key(name)] for name in self.names}
        first, end = places[0], places[-1] + 1
        if places != list(range(first, end)):
            return {name: self.rows[row_key(name)][places] for name in self.names}
        return {
            name: _Part.apply(first, end, self.rows[row_key(name)])  # type: ignore[no-untyped-call]
            for name in self.names
        }

    def prior_centres(self) -> Sequence[Tensor] | None:
        """Return the means (S, *shape) of the priors of the members held here; None: 0."""
        return None

    def complexity(self) -> Tensor:
        """Return the mean of -log p(w) over the members that this process holds, in float64."""
        self.initialise()
        rows = [self.rows[row_key(name)] for name in self.names]
        total = negative_log_prior(rows, self.taus, self.prior_centres())
        return total / len(self.own_samples)

    def per_sample(self) -> Iterable[str]:
        """Return the names of the rows."""
        return [f"rows.{row_key(name)}" for name in self.names]

    # What torch calls before it saves or loads the rows, which are children.
    def _save_to_state_dict(self, *arguments: Any) -> None:
        self.initialise()
        super()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.initialise()
        super()._load_from_state_dict(*arguments)


def _starting_point(posterior: Members) -> dict[str, Tensor]:
    """Return what members share and the weights of each, by name."""
    posterior.initialise()
    shared: dict[str, Tensor] = posterior.module.state_dict(prefix="module.")
    return shared | posterior.rows.state_dict(prefix="rows.")


class _Part(torch.autograd.Function):
    """The rows from ``first`` to ``end`` of a parameter (S, *shape).

    Their gradient is added to the rows of a gradient that the parameter has already: a tensor of
    all rows for each part would be S times the memory traffic.
    """

    @staticmethod
    def forward(ctx: Any, first: int, end: int, rows: Tensor) -> Tensor:
        ctx.first, ctx.end, ctx.rows = first, end, rows
        return rows.detach()[first:end]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, part = ctx.rows, slice(ctx.first, ctx.end)
        if rows.grad is not None:
            rows.grad[part].add_(grads[0])
            return None, None, None
        whole = torch.zeros_like(rows)
        whole[part] = grads[0]
        return None, None, whole


def _varies(w: Tensor, *, around: float | None) -> bool:
    """Tell whether members would differ in this parameter."""
    low, high = (float(edge) for edge in w.detach().aminmax())
    return low != high if around is None else (low, high) != (0.0, 0.0)
