"""This rank's part of the global batches, in the keyed order of each epoch."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, cast

from torch import Tensor
from torch.utils.data import Dataset

from hpc_bnn.data.same_examples import same_examples
from hpc_bnn.data.sharding import epoch_order, steps_per_epoch
from hpc_bnn.data.source import Examples, RolloutExamples
from hpc_bnn.group import Group


class Grid(Protocol):
    """What a loader must know of the grid of ranks."""

    def own_examples(self, batch_size: int) -> range:
        """Return the positions in the global batch that belong to this rank."""


class Place(Protocol):
    """Where a rank stands: the world of ``hb.start``."""

    @property
    def grid(self) -> Grid: ...

    @property
    def all_ranks(self) -> Group: ...


class Batches:
    """Iterate over an epoch's batches (x, y) of this rank; iterating again gives the next epoch.

    All sample ranks of one data rank get the same batch, data ranks get disjoint parts, and the
    order depends on the seed only.

    Collective: making one proves that all ranks hold the same examples (``same_examples``).
    Afterwards ranks do not communicate.

    Parameters
    ----------
    examples
        ``Examples`` or any map-style ``torch.utils.data.Dataset`` of pairs (x, y); x may be a
        tuple, list or dict of tensors.
    batch_size
        B, examples per step over the whole grid: a multiple of the data ranks.
    world
        Where this rank stands.
    rollout
        Steps of the forecasts of an epoch, for ``RolloutExamples``; None: one step.

    Attributes
    ----------
    steps_per_epoch
        Batches in one epoch; ``len()`` is the same.

    Raises
    ------
    ValueError
        If the data ranks do not share ``batch_size`` equally, the examples do not fill one batch,
        are no pairs (x, y) or cannot be read by index; on every rank, if the ranks hold different
        ones.
    """

    def __init__(
        self,
        examples: Examples | Dataset[Any],
        *,
        batch_size: int,
        world: Place,
        seed: int = 0,
        rollout: Callable[[int], int] | None = None,
    ) -> None:
        self._own = world.grid.own_examples(batch_size)
        self._examples = same_examples(examples, world.all_ranks)
        self._batch_size, self._seed, self._rollout = batch_size, seed, rollout
        self.steps_per_epoch = steps_per_epoch(len(self._examples), batch_size)
        self._next_epoch = 0
        self._order: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self._next_epoch
        self._next_epoch += 1
        for cursor in range(self.steps_per_epoch):
            yield self.at(epoch * self.steps_per_epoch + cursor)

    def indices(self, step: int) -> Tensor:
        """Return the indices of this rank's examples (B / D,) at a training step, counted over all
        epochs.
        """
        epoch, cursor = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            order = epoch_order(len(self._examples), seed=self._seed, epoch=epoch)
            self._order = (epoch, order)
        first = cursor * self._batch_size
        return self._order[1][first + self._own.start : first + self._own.stop]

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this rank's (x, y) at a training step, counted over all epochs."""
        indices = self.indices(step)
        if self._rollout is None:
            return self._examples.batch(indices)
        examples = cast(RolloutExamples, self._examples)
        return examples.batch(indices, self._rollout(step // self.steps_per_epoch))
