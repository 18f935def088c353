"""The learning rate as a pure function of the step, the length of rollouts of the epoch: a resumed
run needs no scheduler state.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch

from hpc_bnn.config.settings import TrainSettings

Schedule = Literal["constant", "cosine"]


def learning_rate(
    step: int,
    *,
    total_steps: int,
    lr: float,
    lr_min: float = 0.0,
    warmup_steps: int = 0,
    schedule: Schedule = "cosine",
) -> float:
    """Return the rate at ``step`` (from 0): a linear rise to ``lr``, then constant or a half cosine
    to ``lr_min``.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if schedule == "constant":
        return lr
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return lr_min + (lr - lr_min) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def scheduled(step: int, *, total_steps: int, chosen: TrainSettings) -> float:
    """Return the rate of a run at ``step``, as its settings say."""
    return learning_rate(
        step,
        total_steps=total_steps,
        lr=chosen.lr,
        lr_min=chosen.lr_min,
        warmup_steps=chosen.warmup_steps,
        schedule=chosen.schedule,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, *, total_steps: int, chosen: TrainSettings
) -> float:
    """Give the optimizer its rate at ``step`` and return it."""
    lr = scheduled(step, total_steps=total_steps, chosen=chosen)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def rollout_steps(epoch: int, rollout: Mapping[int, int]) -> int:
    """Return the steps of the forecasts of an epoch; ``rollout``: steps by first epoch, which
    increase from 0.
    """
    return [steps for first, steps in rollout.items() if first <= epoch][-1]
