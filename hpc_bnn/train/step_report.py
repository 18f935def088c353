"""What one training step did: its loss and how long it took."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What one step did.

    Attributes
    ----------
    loss
        The objective, mean_b l_b + kl_weight / N * KL, over the whole grid.
    data_loss
        mean_b l_b.
    kl
        The complexity term, KL(q || p) at temperature 1.
    gradient_norm
        Norm of the reduced gradient before clipping.
    step_time_s
        Duration on this rank.
    phases_s
        Its parts (``hpc_bnn.train.phases``); communication: what waited for other ranks.
    """

    step: int
    loss: float
    data_loss: float
    kl: float
    gradient_norm: float
    step_time_s: float
    phases_s: dict[str, float]
