"""One rank of a group of thousands, in one process: the rows of the others follow from its own.

Every exchange costs what it would cost this rank outside of MPI: rows are reduced, sorted and
unpickled as many as there are ranks.
"""

import pickle
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from hpc_bnn.group import Group, Reduction

T = TypeVar("T")
Rule = Callable[[str, Tensor, Tensor], Tensor]


def alike(name: str, rows: Tensor, ranks: Tensor) -> Tensor:
    """All ranks hold what this one does."""
    return rows


class RowGroup(Group):
    """Rank 0 of ``size`` ranks.

    Parameters
    ----------
    rule
        Makes the rows (size, ...) of an exchange: of its name, this rank's tensor for each rank,
        and the ranks (size,).
    objects
        Makes the value of a rank of this rank's; None: all are alike.
    """

    def __init__(
        self,
        size: int,
        rule: Rule = alike,
        objects: Callable[[str, object, int], object] | None = None,
    ) -> None:
        self.size, self.rank = size, 0
        self._rule, self._objects = rule, objects
        self.calls: list[str] = []

    def _rows(self, x: Tensor, name: str) -> Tensor:
        self.calls.append(name)
        rows = x.expand(self.size, *x.shape).clone()
        return self._rule(name, rows, torch.arange(self.size))

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        rows = self._rows(x, name)
        return rows.sum(0) if reduction == "sum" else rows.amax(0)

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        return self._rows(x, name).flatten(0, 1)

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        return self._rows(x[0], name)

    def broadcast_tensor(self, x: Tensor, *, name: str) -> None:
        self.calls.append(name)

    def gather(self, value: T, *, name: str) -> list[T]:
        self.calls.append(name)
        make = self._objects
        sent = [
            pickle.dumps(value if make is None else make(name, value, rank))
            for rank in range(self.size)
        ]
        return [pickle.loads(one) for one in sent]

    def broadcast(self, value: T, *, name: str) -> T:
        self.calls.append(name)
        pickle.dumps(value)
        return value

    def split(self, color: int, key: int) -> Group:
        return self
