"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.ensemble import Ensemble
from hpc_bnn.bayes.gaussian import Gaussian

POSTERIORS = {
    "gaussian": Gaussian,
    "ensemble": Ensemble,
}

__all__ = ["POSTERIORS", "Ensemble", "Gaussian"]
