"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.chains import SGHMC, SGLD
from hpc_bnn.bayes.gaussian import Gaussian

POSTERIORS = {"gaussian": Gaussian, "sghmc": SGHMC, "sgld": SGLD}

__all__ = ["POSTERIORS", "SGHMC", "SGLD", "Gaussian"]
