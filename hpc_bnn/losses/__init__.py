"""Losses of Bayesian networks, exact under sampling parallelism. To add one: a file here and a line
in LOSSES.
"""

from collections.abc import Callable

from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss
from hpc_bnn.losses.crps_of_gaussians import gaussian_crps
from hpc_bnn.losses.each_member import member_targets
from hpc_bnn.losses.ensemble_crps import almost_fair_crps, crps, fair_crps
from hpc_bnn.losses.ensemble_energy import energy_score
from hpc_bnn.losses.mean_error import mae, mse
from hpc_bnn.losses.moments import gaussian_moments
from hpc_bnn.losses.nll import categorical_nll, gaussian_nll
from hpc_bnn.losses.student_t import student_t_nll

LOSSES: dict[str, Callable[..., Loss]] = {
    "categorical_nll": categorical_nll,
    "gaussian_nll": gaussian_nll,
    "gaussian_moments": gaussian_moments,
    "gaussian_crps": gaussian_crps,
    "student_t_nll": student_t_nll,
    "crps": crps,
    "fair_crps": fair_crps,
    "almost_fair_crps": almost_fair_crps,
    "energy_score": energy_score,
    "mae": mae,
    "mse": mse,
}

__all__ = ["LOSSES", "JointLoss", "Loss", "SeparableLoss", "member_targets", *LOSSES]
