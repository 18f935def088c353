"""Which engine moves tensors: one decision of all ranks, made before anything is started."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch

from hpc_bnn.group import Group
from hpc_bnn.parallel.engine import Engine, EngineChoice, EngineName
from hpc_bnn.parallel.horovod import HorovodEngine
from hpc_bnn.parallel.launcher import LaunchError
from hpc_bnn.parallel.torch_dist import TorchEngine

log = logging.getLogger(__name__)

# In the order of preference of ``auto``.
ENGINES: dict[EngineName, type[Engine]] = {"horovod": HorovodEngine, "torch": TorchEngine}


@dataclass(frozen=True)
class Wish:
    """What one rank wants to run on: the engine, the type of its device, and why an engine cannot
    be used here, by its name; those that can are left out.
    """

    engine: EngineChoice
    device: str
    missing: Mapping[EngineName, str] = field(default_factory=dict)


def agree_on_engine(all_ranks: Group, engine: EngineChoice, device: torch.device) -> EngineName:
    """Collective: return the engine of all ranks.

    Raises
    ------
    LaunchError
        The same on every rank, if they wish for different ones or compute on different kinds of
        devices, or if some rank cannot use the engine.
    ValueError
        If there is no such engine.
    """
    if engine not in get_args(EngineChoice):
        expected = ", ".join(get_args(EngineChoice))
        raise ValueError(f"grid.engine = {engine!r}: expected one of {expected}")
    candidates = list(ENGINES) if engine == "auto" else [engine]
    reasons = {name: ENGINES[name].missing(device) for name in candidates}
    missing = {name: reason for name, reason in reasons.items() if reason}
    wishes = all_ranks.gather(Wish(engine, device.type, missing), name="engine")
    chosen = choose(wishes)
    skipped = wishes[0].missing.get("horovod")
    if engine == "auto" and chosen == "torch" and all_ranks.rank == 0:
        log.info("gradients travel by torch.distributed: %s", skipped)
    return chosen


def choose(wishes: Sequence[Wish]) -> EngineName:
    """Return the engine that the wishes of all ranks agree on; see ``agree_on_engine``."""
    first = wishes[0]
    for rank, wish in enumerate(wishes):
        if wish.engine != first.engine:
            raise LaunchError(
                f"grid.engine = {first.engine} on world rank 0 and {wish.engine} on world rank "
                f"{rank}: all ranks exchange by the same one; start them with the same settings"
            )
        if wish.device != first.device:
            raise LaunchError(
                f"device: world rank 0 computes on {first.device} and world rank {rank} on "
                f"{wish.device}: all ranks must on the same; set train.device, or start ranks "
                "where the GPUs are"
            )
    reasons = []
    for name in list(ENGINES) if first.engine == "auto" else [first.engine]:
        without = [rank for rank, wish in enumerate(wishes) if name in wish.missing]
        if not without:
            return name
        reason = wishes[without[0]].missing[name]
        if len(without) < len(wishes):
            having = next(rank for rank, wish in enumerate(wishes) if name not in wish.missing)
            raise LaunchError(
                f"grid.engine = {first.engine}: world rank {having} can use {name}, world rank "
                f"{without[0]} cannot: {reason}; install the same on all nodes, or set grid.engine "
                "to what all have"
            )
        reasons.append(reason)
    others = [name for name in ENGINES if name != first.engine]
    advice = "" if first.engine == "auto" else f", or set grid.engine={' or '.join(others)}"
    raise LaunchError(
        f"grid.engine = {first.engine}: {len(wishes)} ranks need an engine: "
        f"{'; '.join(reasons)}{advice}"
    )
