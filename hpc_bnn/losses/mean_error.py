"""Mean absolute and mean squared error over the points of an example: deterministic training.

    MAE = sum_p w_p |y_p - t_p|,   MSE = sum_p w_p (y_p - t_p)^2,   sum_p w_p = 1

Separable: with several weight samples it is the mean of their errors, which no spread makes
smaller, so samples are drawn together. No likelihood: its scale is not that of a KL.

Letters: B batch.
"""

from torch import Tensor

from hpc_bnn.losses.base import SeparableLoss, same_shape, to_float
from hpc_bnn.losses.weights import checked_weights, weighted_sum


class MeanError(SeparableLoss):
    """Weighted mean of |y - t|^power over the points of an example.

    Parameters
    ----------
    title
        What errors call it.
    weights
        Point weights that broadcast against an example (P...), such as cell areas; normalised to
        mean 1.
    present
        Bool, of the shape of an example: points that have values; the mean is over these.
    """

    def __init__(
        self, *, power: int, title: str, weights: Tensor | None, present: Tensor | None
    ) -> None:
        super().__init__()
        self.weights: Tensor | None
        self.power, self.title = power, title
        self.register_buffer("weights", checked_weights(weights, present), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        same_shape(output, target, self.title)
        error = to_float(output) - target
        points = error.abs() if self.power == 1 else error.square()
        return weighted_sum(points, self.weights) / target[0].numel()


def mae(*, weights: Tensor | None = None, present: Tensor | None = None) -> SeparableLoss:
    """Return the mean absolute error.

    Parameters
    ----------
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    """
    return MeanError(power=1, title="mae", weights=weights, present=present)


def mse(*, weights: Tensor | None = None, present: Tensor | None = None) -> SeparableLoss:
    """Return the mean squared error.

    Parameters
    ----------
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    """
    return MeanError(power=2, title="mse", weights=weights, present=present)
