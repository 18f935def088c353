"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.laplace import LastLayerLaplace
from hpc_bnn.bayes.low_rank import LowRank
from hpc_bnn.bayes.mc_dropout import Dropout
from hpc_bnn.bayes.rank1 import Rank1
from hpc_bnn.bayes.swag import SWAG

POSTERIORS = {
    "dropout": Dropout,
    "gaussian": Gaussian,
    "last_layer_laplace": LastLayerLaplace,
    "low_rank": LowRank,
    "rank1": Rank1,
    "swag": SWAG,
}

__all__ = ["POSTERIORS", "SWAG", "Dropout", "Gaussian", "LastLayerLaplace", "LowRank", "Rank1"]
