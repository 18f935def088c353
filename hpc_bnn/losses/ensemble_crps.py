"""Continuous ranked probability score of the weight samples as an ensemble, exact on any grid.

    CRPS = mean_i |x_i - t| - c / 2 sum_{i != j} |x_i - x_j|
    c = (1 - e) / (K (K - 1)),   e = (1 - alpha) / K

alpha = 1 is the fair score (unbiased for any K), 0 the standard one, 0.95 the almost fair score,
which keeps the members from the fair score's degenerate optima. It is summed in the form in which
no pair is negative,

    CRPS = 1 / (2 K (K - 1)) sum_{i != j} ( |x_i - t| + |x_j - t| - (1 - e) |x_i - x_j| ),

so nothing cancels in low precision, and rank r adds the pairs whose i it owns. Gradient to an own
member:

    d/dx_i = 1 / (K (K - 1)) sum_{j != i} ( sign(x_i - t) - (1 - e) sign(x_i - x_j) ).

Two layouts give the same number. *Gather*: every rank receives all members. *Transposed*: rank r
receives all members on its 1 / size of the points and sends their gradients back: 1 / size of the
memory and traffic, for large fields.

``spectral`` adds that many times the same score of zonal amplitudes (``amplitude``), which are
functions of a member alone: exchange and backward are the same again.

Letters: S own samples, K samples in all, B batch, P points, R ranks of the axis.
Sources: Gneiting, Raftery 2007, doi:10.1198/016214506000001437, eq. 20-21; Ferro 2014,
doi:10.1002/qj.2270 (fair); Lang et al. 2024, arXiv:2412.15832 (almost fair).
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hpc_bnn.group import Group
from hpc_bnn.losses.amplitude import check_spectral, wave_weights, zonal_amplitude
from hpc_bnn.losses.base import JointLoss, flat_points, same_shape, to_float
from hpc_bnn.losses.transpose import points_here, send_back, send_points
from hpc_bnn.losses.weights import checked_weights, point_weights

Layout = Literal["auto", "gather", "transposed"]

# Above this many bytes of gathered members a rank, the transposed form moves and holds less.
TRANSPOSE_BYTES = 1 << 24


def pairs(
    own: Tensor, everyone: Tensor, target: Tensor, first: int, alpha: float
) -> tuple[Tensor, Tensor]:
    """Return the share (...) of the score that the own members add, and its gradient (S, ...) to
    them.

    ``own`` (S, ...) are members ``first .. first + S - 1`` of ``everyone`` (K, ...); ``target`` is
    (...).
    """
    count = len(everyone)
    if count == 1:  # only the standard score gets here: the mean absolute error
        return (own - target).abs().sum(0), torch.sign(own - target)
    pull = 1.0 - (1.0 - alpha) / count
    error, sign = (own - target).abs(), torch.sign(own - target)
    score, gradient = torch.zeros_like(target), torch.zeros_like(own)
    for j, member in enumerate(everyone):
        gap = own - member
        term = error + (member - target).abs() - pull * gap.abs()
        slope = sign - pull * torch.sign(gap)
        if first <= j < first + len(own):  # a member makes no pair with itself
            term[j - first] = 0.0
            slope[j - first] = 0.0
        score += term.sum(0)
        gradient += slope
    scale = 1.0 / (count * (count - 1))
    return score * (0.5 * scale), gradient * scale


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, target: Tensor, weights: Tensor, alpha: float, axis: Group
    ) -> Tensor:
        everyone = axis.all_gather(own.contiguous(), name="crps.members")
        score, gradient = pairs(own, everyone, target, axis.rank * len(own), alpha)
        ctx.save_for_backward(gradient.mul_(weights))
        return axis.all_reduce((score * weights).sum(-1), reduction="sum", name="crps.score")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0].unsqueeze(-1), None, None, None, None


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, target: Tensor, weights: Tensor, alpha: float, axis: Group
    ) -> Tensor:
        everyone = send_points(own, axis, name="crps.points")
        own_weights = points_here(weights, axis)
        score, gradient = pairs(everyone, everyone, points_here(target, axis), 0, alpha)
        ctx.gradient = gradient * own_weights
        ctx.axis, ctx.shape = axis, own.shape
        return axis.all_reduce((score * own_weights).sum(-1), reduction="sum", name="crps.score")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        mine = send_back(ctx.gradient, ctx.shape, ctx.axis, name="crps.gradients")
        return mine * grads[0].unsqueeze(-1), None, None, None, None


class CRPS(JointLoss):
    """CRPS of the weight samples, as a weighted mean over the points of an example.

    Parameters
    ----------
    alpha
        1 fair, 0 standard, in between almost fair.
    weights
        Point weights that broadcast against an example (P...), such as cell areas; normalised to
        mean 1.
    present
        Bool, of the shape of an example: points that have values; the mean is over these.
    layout
        ``gather``, ``transposed``, or ``auto``: transposed where the gathered members exceed 16
        MiB.
    spectral
        How many times the score of amplitudes counts beside that of points. The last axis of an
        example is then a circle, along which weights are equal; needs values at all points.
    """

    title = "crps"
    gathered: type[torch.autograd.Function] = _Gathered
    transposed: type[torch.autograd.Function] = _Transposed

    def __init__(
        self,
        *,
        alpha: float,
        weights: Tensor | None = None,
        present: Tensor | None = None,
        layout: Layout = "auto",
        spectral: float = 0.0,
    ) -> None:
        super().__init__()
        self.weights: Tensor | None
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"loss.alpha = {alpha!r}: must be between 0 (standard) and 1 (fair)")
        if layout not in ("auto", "gather", "transposed"):
            raise ValueError(f"loss.layout = {layout!r}: expected auto, gather or transposed")
        self.alpha, self.layout = alpha, layout
        self.spectral = check_spectral(spectral, weights, present)
        self.min_samples = 1 if alpha == 0.0 else 2
        self.register_buffer("weights", checked_weights(weights, present), persistent=False)

    def forward(self, outputs: Tensor, target: Tensor, axis: Group) -> Tensor:
        outputs = to_float(outputs)
        same_shape(outputs[0], target, self.title)
        count = len(outputs) * axis.size
        if count < self.min_samples:
            raise ValueError(
                f"{self.title}: a score of the spread needs at least 2 weight samples, "
                f"got {count}; raise posterior.samples"
            )
        score = self._score(outputs, target, self.weights, axis)
        if not self.spectral:
            return score
        waves = zonal_amplitude(outputs), zonal_amplitude(target.to(outputs.dtype))
        weights = wave_weights(self.weights, target.shape[-1])
        return score + self.spectral * self._score(*waves, weights, axis)

    def _score(
        self, outputs: Tensor, target: Tensor, weights: Tensor | None, axis: Group
    ) -> Tensor:
        """Collective over the sample axis: return the score (B,) of all points alike."""
        members, truth = flat_points(outputs, 2), flat_points(target, 1).to(outputs.dtype)
        # Their sum is 1: the weighted sum over points is the weighted mean.
        flat = point_weights(weights, target, outputs.dtype) / truth.shape[1]
        size = len(outputs) * axis.size * members[0].numel() * members.element_size()
        transposed = self.layout == "transposed" or (
            self.layout == "auto" and axis.size > 1 and size > TRANSPOSE_BYTES
        )
        function = self.transposed if transposed else self.gathered
        score: Tensor = function.apply(members, truth, flat, self.alpha, axis)  # type: ignore[no-untyped-call]
        return score


def crps(
    *,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    layout: Layout = "auto",
    spectral: float = 0.0,
) -> JointLoss:
    """Return the standard CRPS, the score of the empirical distribution of the samples.

    Parameters
    ----------
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    layout
        How ranks share the work; the answer is the same (``CRPS``).
    spectral
        Times the score of amplitudes of waves along the last axis, a circle of longitude.
    """
    return CRPS(alpha=0.0, weights=weights, present=present, layout=layout, spectral=spectral)


def fair_crps(
    *,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    layout: Layout = "auto",
    spectral: float = 0.0,
) -> JointLoss:
    """Return the fair CRPS: unbiased for the score of the distribution behind the samples.

    Parameters
    ----------
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    layout
        How ranks share the work; the answer is the same (``CRPS``).
    spectral
        Times the score of amplitudes of waves along the last axis, a circle of longitude.
    """
    return CRPS(alpha=1.0, weights=weights, present=present, layout=layout, spectral=spectral)


def almost_fair_crps(
    *,
    alpha: float = 0.95,
    weights: Tensor | None = None,
    present: Tensor | None = None,
    layout: Layout = "auto",
    spectral: float = 0.0,
) -> JointLoss:
    """Return the almost fair CRPS.

    Parameters
    ----------
    alpha
        Share of the fair CRPS, the rest is the standard one: at 1 the fair one, of whose samples
        one may do anything.
    weights
        Broadcast against an example, and count relative to their mean.
    present
        Bool, of an example: leaves out points without values.
    layout
        How ranks share the work; the answer is the same (``CRPS``).
    spectral
        Times the score of amplitudes of waves along the last axis, a circle of longitude.
    """
    return CRPS(alpha=alpha, weights=weights, present=present, layout=layout, spectral=spectral)
