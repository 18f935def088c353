"""Which engine moves tensors: one decision of all ranks, made before anything is started."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from hpc_bnn.group import Group
from hpc_bnn.parallel.engine import Compression, Engine
from hpc_bnn.parallel.fingerprint import digest
from hpc_bnn.parallel.guards import equal_on_all_ranks
from hpc_bnn.parallel.horovod import HorovodEngine
from hpc_bnn.parallel.launcher import LaunchError
from hpc_bnn.parallel.torch_dist import TorchEngine

log = logging.getLogger(__name__)

AUTO = "auto"  # the first of these that can be used
ENGINES: dict[str, type[Engine]] = {"horovod": HorovodEngine, "torch": TorchEngine}


@dataclass(frozen=True)
class Wish:
    """What one rank wants to run on: the engine, the type of its device, and why an engine cannot
    be used here, by its name; those that can are left out.
    """

    engine: str
    device: str
    missing: Mapping[str, str] = field(default_factory=dict)


def check_engine(engine: str, compression: Compression = "none") -> str | None:
    """Return what is wrong with ``grid.engine``, or None."""
    if engine != AUTO and engine not in ENGINES:
        return f"grid.engine = {engine!r}: expected one of {', '.join([AUTO, *ENGINES])}"
    if engine != AUTO and compression not in ENGINES[engine].compressions:
        able = [name for name, other in ENGINES.items() if compression in other.compressions]
        return (
            f"train.compression = {compression}: {ENGINES[engine].title} cannot sum it; set "
            f"grid.engine={' or '.join(able)}, or another compression"
        )
    return None


def agree_on_engine(all_ranks: Group, engine: str, device: torch.device) -> str:
    """Collective: return the engine of all ranks.

    Raises
    ------
    LaunchError
        The same on every rank, if they wish for different ones or compute on different kinds of
        devices, or if some rank cannot use the engine.
    ValueError
        If there is no such engine.
    """
    reasons = {name: ENGINES[name].missing(device) for name in _candidates(engine)}
    missing = {name: reason for name, reason in reasons.items() if reason}
    mine = Wish(engine, device.type, missing)
    alike = equal_on_all_ranks(all_ranks, digest(mine), name="engine")
    wishes = [mine] if alike else all_ranks.gather(mine, name="engine")
    chosen = choose(wishes, ranks=all_ranks.size)
    for name in _candidates(engine):
        if name == chosen:
            break
        if ENGINES[name].is_installed() and all_ranks.rank == 0:
            log.warning("%s moves gradients: %s", ENGINES[chosen].title, reasons[name])
    return chosen


def _candidates(engine: str) -> list[str]:
    return list(ENGINES) if engine == AUTO else [name for name in ENGINES if name == engine]


def choose(wishes: Sequence[Wish], *, ranks: int) -> str:
    """Return the engine that the wishes of all ranks agree on, one where they are alike; see
    ``agree_on_engine``.
    """
    first = wishes[0]
    for rank, wish in enumerate(wishes):
        problem = check_engine(wish.engine)
        if problem:
            raise ValueError(problem)
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
    for name in _candidates(first.engine):
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
    advice = "" if first.engine == AUTO else f", or set grid.engine={' or '.join(others)}"
    raise LaunchError(
        f"grid.engine = {first.engine}: {ranks} ranks need an engine: {'; '.join(reasons)}{advice}"
    )
