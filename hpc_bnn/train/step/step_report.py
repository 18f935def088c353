"""What one training step did: its loss and how long it took."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


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
        Norm of the reduced gradient before clipping; where members have gradients of their own, the
        root of their mean square counts.
    phases_s
        Parts of its duration on this rank (``hpc_bnn.train.step.phases``); communication: what
        waited for other ranks. On a GPU, whoever asks waits until it has ended the step.
    step_time_s
        Their sum.
    """

    step: int
    loss: float
    data_loss: float
    kl: float
    gradient_norm: float
    times: Callable[[], dict[str, float]] = field(repr=False, compare=False)

    @cached_property
    def phases_s(self) -> dict[str, float]:
        """Seconds by phase."""
        return self.times()

    @property
    def step_time_s(self) -> float:
        """Duration on this rank."""
        return sum(self.phases_s.values())

    def row(
        self, *, epoch: float, lr: float, rollout: int | None, data_wait_s: float
    ) -> dict[str, Any]:
        """Return the object of this step in ``metrics.jsonl``; times in seconds."""
        return {
            "step": self.step,
            "epoch": epoch,
            "loss": self.loss,
            "nll": self.data_loss,
            "kl": self.kl,
            "lr": lr,
            **({} if rollout is None else {"rollout": rollout}),
            "step_time_s": self.step_time_s,
            "data_wait_time_s": data_wait_s,
            **{f"{phase}_time_s": seconds for phase, seconds in self.phases_s.items()},
        }
