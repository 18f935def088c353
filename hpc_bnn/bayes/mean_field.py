"""The parameters of a posterior that is an independent Gaussian for each random weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RandomWeight:
    """The tensors of one parameter under q = N(mu, exp(log_sigma)^2), and tau of its prior."""

    name: str
    mu: Tensor
    log_sigma: Tensor
    tau: float


@dataclass(frozen=True)
class MeanField:
    """A mean-field Gaussian q, and T of its complexity term E_q[-log p] - T H(q)."""

    weights: Sequence[RandomWeight]
    temperature: float
