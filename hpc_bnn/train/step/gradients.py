"""The gradients of a step: the same on every rank, of whatever is trained now.

Which parameters are trained, and which of them have a gradient in this step, is one decision of
all ranks. Both ride as digests on the exchange of the loss; only where they differ do the ranks
exchange more.
"""

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import Loss
from hpc_bnn.parallel import guards
from hpc_bnn.parallel.reducer import NoReducer, Reducer
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.parameters import TrainingWatch, named_parameters, shape_of
from hpc_bnn.train.step.settings import StepSettings

_PART_BITS = 20  # what ``guards.total_of`` takes


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
        passes: int,
    ) -> None:
        self._posterior, self._loss, self._optimizer = posterior, loss, optimizer
        self._world, self._settings, self._passes = world, settings, passes
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
        self._optimizer.zero_grad(set_to_none=True)
        self._reducer.begin()

    def _prepare(self) -> None:
        before = {id(p) for p in self.named.values()}
        self.named = named_parameters(self._posterior, self._loss, self._optimizer)
        self._reducer.close()
        self._watch = TrainingWatch((self._posterior, self._loss), self._optimizer)
        self._reducer = self._world.reducer(
            self.named.items(),
            passes=self._passes,
            reduction=self._settings.reduction,
            compression=self._settings.compression,
        )
        self.scale = self._reducer.scale
        self._names = sorted(self.named)
        self._trained: dict[str, object] = {k: shape_of(self.named[k]) for k in self._names}
        if before and self._world.grid.world_size > 1:  # at the start values are broadcast
            new = [name for name in self._names if id(self.named[name]) not in before]
            self._trained |= {f"values of {k}": guards.fingerprint(self.named[k]) for k in new}
        self._digest = _parts(guards.digest(self._trained))

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
        trained = self._digest if self._refusal is None else _parts(guards.digest(self._facts()))
        return [*trained, *_parts(guards.digest(bytes(self._absent())))]

    def _absent(self) -> list[bool]:
        """Return which parameters have no gradient on this rank, in the order of their names."""
        return [self.named[name].grad is None for name in self._names]

    def reduce(self, step: int, same: list[bool]) -> None:
        """Collective: sum over the sample axis, average over the data axis.

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

    def norm(self) -> Tensor:
        """Return the norm of the reduced gradient: also what shows that all of it is finite."""
        gradients = [p.grad for p in self.named.values() if p.grad is not None]
        # In float32 at least: of float16, the norm of finite gradients would be infinite.
        half = [g for g in gradients if g.dtype in (torch.float16, torch.bfloat16)]
        norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in half]
        rest = [g for g in gradients if g.dtype not in (torch.float16, torch.bfloat16)]
        return torch.nn.utils.get_total_norm([*norms, *rest])

    def clip(self, max_norm: float, norm: Tensor) -> None:
        """Scale the gradient of this norm to one of ``max_norm`` where it is longer."""
        torch.nn.utils.clip_grads_with_norm_(self.named.values(), max_norm, norm)


def _parts(digest: int) -> list[int]:
    """Return a digest of 60 bits as three numbers."""
    return [digest >> shift & ((1 << _PART_BITS) - 1) for shift in (0, 20, 40)]
