"""The gradients of a step: the same on every rank, of whatever is trained now.

Which parameters are trained, and which of them have a gradient in this step, is one decision of
all ranks. Both ride as digests on the exchange of the loss; only where they differ do the ranks
exchange more.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import Loss
from hpc_bnn.parallel import guards
from hpc_bnn.parallel.fingerprint import digest, fingerprint
from hpc_bnn.parallel.reducer import NoReducer, Reducer
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.parameters import TrainingWatch, named_parameters, shape_of
from hpc_bnn.train.step.settings import StepSettings

_PART_BITS = 20  # what ``guards.total_of`` takes


@dataclass(frozen=True)
class Norms:
    """Norms of the reduced gradient, on the device: ``shared`` of what is shared, a scalar, and
    ``rows`` (S,) of the own members where there are any; not finite where any part of the gradient
    is not.
    """

    shared: Tensor
    rows: Tensor | None

    def figures(self) -> list[Tensor]:
        """Return scalars in float64: the norm of what is shared, and the sum of the squares of the
        norms of the own members.
        """
        shared = self.shared.double()
        return [shared, shared.new_zeros(()) if self.rows is None else self.rows.square().sum()]


class Gradients:
    """The trained parameters and what an optimizer steps on.

    Attributes
    ----------
    named
        The trained parameters by name.
    scale
        What a rank must multiply its share of the objective by.
    """

    def __init__(
        self,
        posterior: Posterior,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        world: World,
        settings: StepSettings,
        *,
        draws: int,
    ) -> None:
        self._posterior, self._loss, self._optimizer = posterior, loss, optimizer
        self._world, self._settings, self._draws = world, settings, draws
        self._refusal: ValueError | None = None
        self._reducer: Reducer = NoReducer()
        self.named: dict[str, nn.Parameter] = {}
        self._prepare()

    def begin(self) -> None:
        """Start a step: clear the gradients, and take up what was frozen, thawed or added."""
        self._refusal = None
        if self._watch.changed():
            try:
                self._prepare()
            except ValueError as error:
                if self._world.grid.world_size == 1:
                    raise
                self._refusal = error  # raised where the ranks meet: none is left waiting
        # Draws add to their own rows of a gradient that is there, whose memory serves every step.
        rows = [self.named[name] for name in self._rows] if self._draws > 1 else []
        before = [parameter.grad for parameter in rows]
        self._clear()
        for parameter, grad in zip(rows, before, strict=True):
            if grad is None or grad.shape != parameter.shape:
                grad = torch.zeros_like(parameter)
            parameter.grad = grad.zero_()
        self._reducer.begin()

    def _clear(self) -> None:
        """Let the optimizer clear the gradients; raise ValueError, on every rank alike, where it
        keeps some of the batch before, which the ranks have summed already.
        """
        before = [
            (p.grad, None if p.grad is None else p.grad._version) for p in self.named.values()
        ]
        self._optimizer.zero_grad(set_to_none=True)
        for (name, p), (grad, version) in zip(self.named.items(), before, strict=True):
            if p.grad is not None and p.grad is grad and p.grad._version == version:
                kind = type(self._optimizer).__name__
                raise ValueError(
                    f"{kind}.zero_grad left the gradient of {name} as it was: hb.Step does not add "
                    "up gradients of several batches; give it one larger batch, of more data "
                    "ranks where memory is short, and an optimizer that clears its gradients"
                )

    def at_last_pass(self) -> None:
        """Say that from now on each gradient that comes is the whole one of this rank."""
        self._reducer.at_last_pass()

    def _prepare(self) -> None:
        before = {id(p) for p in self.named.values()}
        self.named = named_parameters(self._posterior, self._loss, self._optimizer)
        per_sample = set(self._posterior.per_sample())
        self._rows = [name for name in self.named if name in per_sample]
        self._shared = [name for name in self.named if name not in per_sample]
        self._reducer.close()
        self._watch = TrainingWatch((self._posterior, self._loss), self._optimizer)
        self._reducer = self._world.reducer(
            self.named.items(),
            reduction=self._settings.reduction,
            compression=self._settings.compression,
            per_sample=self._rows,
        )
        # Alone, the share of a member in the objective would be K times what it is among K.
        self.scale = float(self._posterior.members or 1) if self._rows else 1.0
        self._names = sorted(self.named)
        self._trained: dict[str, object] = {k: shape_of(self.named[k]) for k in self._names}
        if before and self._world.grid.world_size > 1:  # at the start values are broadcast
            new = [
                name
                for name in self._names
                if id(self.named[name]) not in before and name not in per_sample
            ]
            self._trained |= {f"values of {k}": fingerprint(self.named[k]) for k in new}
        self._digest = _parts(digest(self._trained))

    def _facts(self) -> dict[str, object]:
        """Return what the ranks must agree on before they reduce."""
        refused = {} if self._refusal is None else {"refused": str(self._refusal)}
        return {**self._trained, **refused}

    def digests(self) -> list[int]:
        """Return numbers that are the same on all ranks where these train the same parameters, and
        have gradients of the same, after the last backward pass; none on one rank.
        """
        if self._world.grid.world_size == 1:
            return []
        trained = self._digest if self._refusal is None else _parts(digest(self._facts()))
        return [*trained, *_parts(digest(bytes(self._absent())))]

    def _absent(self) -> list[bool]:
        """Return which parameters have no gradient on this rank, in the order of their names."""
        return [self.named[name].grad is None for name in self._names]

    def reduce(self, step: int, same: list[bool]) -> None:
        """Collective: sum over the sample axis, average over the data axis; a row of what is
        per-sample gets the gradient that its member would have alone.

        ``same``: which of ``digests`` are the same on every rank.

        Raises
        ------
        GuardError
            On every rank, where the ranks train different parameters.
        ValueError
            On every rank, where the optimizer does not hold what is trained now.
        """
        trained, absent = all(same[: len(self._digest)]), self._absent()
        if not trained:
            guards.agree(
                self._world.all_ranks,
                self._facts(),
                name=f"step {step}: trained parameters",
                advice="freeze, thaw and add parameters on all ranks before the same step, new "
                "ones with the same values",
            )
        if self._refusal is not None:
            raise self._refusal
        if not all(same[len(self._digest) :]):
            used = torch.tensor(absent).logical_not().to(torch.uint8)
            used = self._world.all_ranks.all_reduce(used, reduction="max", name="gradients")
            absent = used.logical_not().tolist()
        self._reducer.wait({name for name, none in zip(self._names, absent, strict=True) if none})
        for p in self.named.values():
            if p.grad is not None and p.grad.layout != torch.strided:
                p.grad = p.grad.to_dense()
        if self.scale != 1.0:
            for grad in self._gradients_of(self._shared):
                grad.div_(self.scale)

    def norms(self) -> Norms:
        """Return the norms of the reduced gradient."""
        shared = _norm(self._gradients_of(self._shared)).to(self._world.device)
        gradients = self._gradients_of(self._rows)
        if not gradients:
            return Norms(shared, None)
        norms = torch.stack([_norms_of_rows(gradient).double() for gradient in gradients])
        return Norms(shared, norms.square().sum(0).sqrt())

    def diverged(self, norms: Norms) -> list[int]:
        """Collective over the sample axis where there are per-sample parameters: return the members
        with a weight that is not finite, else those whose gradient is not.
        """
        if norms.rows is None:
            return []
        weights = [_flat(self.named[name].detach()).isfinite().all(1) for name in self._rows]
        bad = torch.stack([~torch.stack(weights).all(0), ~norms.rows.isfinite()], 1)
        everyone = self._world.sample_axis.all_gather(bad.int().cpu(), name="diverged members")
        for kind in everyone.bool().T:
            if kind.any():
                return [int(member) for member in kind.nonzero()]
        return []

    def clip(self, max_norm: float, norms: Norms) -> None:
        """Scale what is longer than ``max_norm`` to it: the gradient of what is shared, and that of
        each member.
        """
        shared = [self.named[name] for name in self._shared]
        torch.nn.utils.clip_grads_with_norm_(shared, max_norm, norms.shared)
        if norms.rows is not None:
            factors = (max_norm / (norms.rows + 1e-6)).clamp(max=1.0)  # as torch does
            for grad in self._gradients_of(self._rows):
                grad.mul_(factors.to(grad.dtype).view(-1, *[1] * (grad.dim() - 1)))

    def _gradients_of(self, names: Iterable[str]) -> list[Tensor]:
        gradients = (self.named[name].grad for name in names)
        return [gradient for gradient in gradients if gradient is not None]


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    # In float32 at least: of float16, the norm of finite gradients would be infinite.
    half = [g for g in gradients if g.dtype in (torch.float16, torch.bfloat16)]
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in half]
    rest = [g for g in gradients if g.dtype not in (torch.float16, torch.bfloat16)]
    return torch.nn.utils.get_total_norm([*norms, *rest])


def _norms_of_rows(rows: Tensor) -> Tensor:
    """Return the norms (S,) of rows (S, ...), in float32 at least."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(_flat(rows), dim=1, dtype=wide)
    return norms


def _flat(rows: Tensor) -> Tensor:
    """Return rows (S, ...) as (S, n), also of one number each."""
    return rows.reshape(len(rows), -1)


def _parts(digest: int) -> list[int]:
    """Return a digest of 60 bits as three numbers."""
    return [digest >> shift & ((1 << _PART_BITS) - 1) for shift in (0, 20, 40)]
