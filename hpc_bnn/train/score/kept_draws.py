"""Weights of members that are asked for again: by every batch of starts of a set of forecasts.

Drawing costs a tenth of a pass of a small network. So draws are kept as far as they fit, the first
ones that are asked for: batches ask for all members in the same order, and whatever made room for
newer ones would lose each draw just before it is asked for again.
"""

from collections.abc import Iterable

from torch import Tensor

from hpc_bnn.bayes.posterior import Posterior, Weights

KEPT_BYTES = 1 << 27  # of all draws that a rank keeps


class KeptDraws:
    """Draws the weights of ``posterior``, whose parameters stay as they are, and keeps up to
    ``most_bytes`` of them.
    """

    def __init__(self, posterior: Posterior, most_bytes: int) -> None:
        self._posterior, self._left = posterior, most_bytes
        self._kept: dict[tuple[int, int], Weights] = {}

    def weights(self, member: int, redraw: int = 0) -> Weights:
        """Return the ``prediction_weights`` of a member, drawn anew so many times."""
        found = self._kept.get((member, redraw))
        if found is not None:
            return found
        weights = self._posterior.prediction_weights(member, redraw)
        size = size_of(weights.values())
        if self._posterior.draws and size <= self._left:
            self._kept[member, redraw] = weights
            self._left -= size
        return weights


def size_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def kept_bytes(weights_bytes: int, draws: int) -> int:
    """Return how many bytes are kept of so many draws."""
    return min(draws, KEPT_BYTES // max(1, weights_bytes)) * weights_bytes
