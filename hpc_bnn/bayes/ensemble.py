"""Deep ensembles: K networks that are trained side by side, each from initial weights of its own.

A member minimises its own objective, mean_b l_b - (kl_weight / N) log p(w), as it would alone. Its
weights are one mode of the posterior; that the modes differ is the uncertainty.

With ``anchored`` the prior of member k is centred at an anchor a_k that is drawn from the prior
(randomised MAP sampling):

    mean_b l_b + (kl_weight / N) |w - a_k|^2 / (2 tau^2),    a_k ~ N(0, tau^2)

Where each member is also trained on targets of its own, y + sigma eps, the minima of a linear model
with Gaussian noise sigma are exact samples of its posterior: p(w | y) has mean
L^-1 (X'y / sigma^2) and covariance L^-1, with L = X'X / sigma^2 + I / tau^2, and a minimum is
L^-1 (X'(y + sigma eps) / sigma^2 + a / tau^2). Anchors alone give a covariance that is too small.

Under a joint loss, such as a CRPS, the members are trained to be good together: that is another
method, and no member is what it would be alone.

Letters: K members, N examples. Sources: Lakshminarayanan, Pritzel, Blundell 2017, arXiv:1612.01474
(ensembles); Pearce, Leibfried, Brintrup 2020, arXiv:1810.05546 (anchors); Bardsley et al. 2014,
doi:10.1137/140964023 (randomise, then optimise).
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.members import Members
from hpc_bnn.bayes.noise import Purpose, Stream, normals
from hpc_bnn.bayes.prior import Positive, PriorSigma


class Ensemble(Members):
    """K networks, each trained from weights of its own.

    A rank holds the weights and the optimizer's moments of its own K / S members: memory grows with
    them. Nothing but a joint loss is exchanged along the sample axis.

    Parameters
    ----------
    module
        Any module without BatchNorm. It is not copied, and its parameters are frozen: it gives
        shapes, and the scales of the initial weights (``hpc_bnn.bayes.members``).
    samples
        K, at least 2.
    prior_sigma
        Standard deviation tau of the prior, whose -log p is the decay of weights; or ``"fan_in"``:
        ``1 / sqrt(fan_in)`` of each layer.
    anchored
        Centre the prior of each member at an anchor of its own. For samples of the posterior of a
        regression also train on ``perturbed_targets``.
    initial_spread
        None: each member starts from weights of its own; a number: all start from the given ones,
        moved by so many times the root mean square of each tensor.
    seed
        Key of initial weights and anchors; the same on every rank.

    Raises
    ------
    ValueError
        If there are fewer than 2 members, or ``Members`` refuses the module or a number.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        samples: int,
        prior_sigma: PriorSigma = 1.0,
        anchored: bool = False,
        initial_spread: Positive | None = None,
        seed: int = 0,
    ) -> None:
        if samples < 2:
            raise ValueError(
                f"posterior.samples = {samples}: an ensemble has at least 2 members; give more, or "
                "another posterior"
            )
        super().__init__(
            module,
            samples=samples,
            prior_sigma=prior_sigma,
            initial_spread=initial_spread,
            seed=seed,
        )
        self.anchored = anchored

    def prior_centres(self) -> Sequence[Tensor] | None:
        """Return the anchors (S, *shape) of the members held here, made anew at every call; None
        without ``anchored``.
        """
        if not self.anchored:
            return None
        given = [self.module.get_parameter(name) for name in self.names]
        streams = [Stream(self.seed, Purpose.ANCHORS, 0, member) for member in self.own_samples]
        offsets = accumulate((w.numel() for w in given), initial=0)
        return [
            torch.stack([normals(s, w.shape, offset=start, device=w.device) for s in streams]) * tau
            for w, tau, start in zip(given, self.taus, offsets, strict=False)
        ]


def perturbed_targets(
    targets: Tensor, *, sigma: float, samples: int, seed: int = 0, first_example: int = 0
) -> Tensor:
    """Return targets (N, K, ...) of the K ``samples`` members: y + sigma eps of each member and
    example.

    Train on them with ``hb.losses.member_targets(hb.losses.gaussian_nll(sigma=sigma))``. The noise
    belongs to the example, so every epoch sees the same targets, and any grid: a rank may perturb
    the whole data set, or the part of it that begins at ``first_example``.

    Parameters
    ----------
    targets
        y (N, ...), in floating point.
    sigma
        Standard deviation of the likelihood.

    Raises
    ------
    ValueError
        If the targets are no floating-point numbers, or ``sigma`` is not positive.
    """
    if not targets.is_floating_point():
        raise ValueError(
            f"perturbed_targets: targets of {str(targets.dtype).removeprefix('torch.')}: noise is "
            "added to floating-point numbers; classes have no exact perturbation"
        )
    if not 0 < sigma < float("inf"):
        raise ValueError(f"perturbed_targets: sigma = {sigma!r}: must be a positive number")
    offset = first_example * (targets[:1].numel())
    members = targets.unsqueeze(1).repeat(1, samples, *[1] * (targets.dim() - 1))
    for k in range(samples):
        stream = Stream(seed, Purpose.TARGETS, 0, k)
        eps = normals(stream, targets.shape, offset=offset, device=targets.device)
        members[:, k] += sigma * eps.to(targets.dtype)
    return members
