"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.ensemble import Ensemble
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.low_rank import LowRank
from hpc_bnn.bayes.rank1 import Rank1

POSTERIORS = {
    "gaussian": Gaussian,
    "ensemble": Ensemble,
    "low_rank": LowRank,
    "rank1": Rank1,
}

__all__ = [
    "POSTERIORS",
    "Ensemble",
    "Gaussian",
    "LowRank",
    "Rank1",
]
