"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.laplace import LastLayerLaplace

POSTERIORS = {"gaussian": Gaussian, "last_layer_laplace": LastLayerLaplace}

__all__ = ["POSTERIORS", "Gaussian", "LastLayerLaplace"]
