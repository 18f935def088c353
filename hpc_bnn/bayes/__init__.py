"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.chains import SGHMC, SGLD
from hpc_bnn.bayes.ensemble import Ensemble
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.ivon import IVON
from hpc_bnn.bayes.laplace import LastLayerLaplace
from hpc_bnn.bayes.low_rank import LowRank
from hpc_bnn.bayes.mc_dropout import Dropout
from hpc_bnn.bayes.rank1 import Rank1
from hpc_bnn.bayes.swag import SWAG

POSTERIORS = {
    "dropout": Dropout,
    "ensemble": Ensemble,
    "gaussian": Gaussian,
    "last_layer_laplace": LastLayerLaplace,
    "low_rank": LowRank,
    "rank1": Rank1,
    "sghmc": SGHMC,
    "sgld": SGLD,
    "swag": SWAG,
}

__all__ = [
    "IVON",
    "POSTERIORS",
    "SGHMC",
    "SGLD",
    "SWAG",
    "Dropout",
    "Ensemble",
    "Gaussian",
    "LastLayerLaplace",
    "LowRank",
    "Rank1",
]
