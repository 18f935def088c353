"""What a loss may ask of the other weight samples of the same batch.

The samples of a step are spread over the ranks of the sample axis, equally many on each, in rank
order. A loss that joins samples is written against this protocol; it runs on one process with
``LocalAxis`` and on many with the implementation of ``hpc_bnn.parallel``, and gives the same
number.

Letters: S own samples, K = S * size samples in all, B batch, P points.
"""

from typing import Literal, Protocol

from torch import Tensor

Reduction = Literal["sum", "max"]


class SampleAxis(Protocol):
    """The ranks that hold the other weight samples; its methods are collective: all ranks of the
    axis call them.
    """

    @property
    def size(self) -> int:
        """Number of ranks of the axis."""

    @property
    def rank(self) -> int:
        """Place of this rank on the axis."""

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        """Collective: return the elementwise sum or maximum of ``x`` over the ranks, as a new
        tensor.
        """

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        """Collective: return (size * n, ...) from the (n, ...) of each rank, in rank order."""

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        """Collective: send ``x[r]`` of (size, ...) to rank r; return (size, ...) with what each
        rank sent here.
        """


class LocalAxis:
    """The axis of a single rank that holds every sample: all exchanges are the identity."""

    size = 1
    rank = 0

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        return x.clone()

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        return x

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        return x
