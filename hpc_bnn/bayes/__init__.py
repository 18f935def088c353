"""Posteriors over the weights of any module. To add one: a file here and a line in POSTERIORS."""

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.ivon import IVON
from hpc_bnn.bayes.low_rank import LowRank
from hpc_bnn.bayes.rank1 import Rank1

POSTERIORS = {"gaussian": Gaussian, "low_rank": LowRank, "rank1": Rank1}

__all__ = ["IVON", "POSTERIORS", "Gaussian", "LowRank", "Rank1"]
