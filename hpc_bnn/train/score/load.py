"""``hb.load``: go on with the training of a script, or predict with what it has learned."""

from dataclasses import replace
from pathlib import Path
from typing import overload

import torch
from torch import nn

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.script import Scheduler, go_on
from hpc_bnn.train.run.state import restore, restore_ema
from hpc_bnn.train.score.trained import Trained, load_trained
from hpc_bnn.train.step.step import Step


@overload
def load(path: str | Path, *, world: World | None = None) -> Trained: ...


@overload
def load(
    path: str | Path,
    posterior: Posterior,
    optimizer: torch.optim.Optimizer | None = None,
    step: Step | None = None,
    *,
    scheduler: Scheduler | None = None,
    missing_ok: bool = False,
) -> int: ...


def load(
    path: str | Path,
    posterior: Posterior | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    step: Step | None = None,
    *,
    scheduler: Scheduler | None = None,
    missing_ok: bool = False,
    world: World | None = None,
) -> int | Trained:
    """Take what ``hb.save`` wrote into ``path`` and return how many steps were made; or, of the
    folder of a run alone, return the trained run.

    A run of ``hpc-bnn train`` comes with its settings, its ``posterior``, its scale and ``predict``
    in the units of its data, whose files it does not need (fields: it does).

    With optimizer and step, which is collective over the world of the step: the next step is the
    one after. With the posterior alone, on any process by itself: its weights, or their moving
    averages where there are some, to predict.

    Parameters
    ----------
    scheduler
        What sets the rate, where one was saved.
    missing_ok
        0 steps where there is no such file, so that a script begins and goes on by one line.
    world
        Of a run: where it is loaded, collectively; None: on this process by itself.

    Raises
    ------
    ValueError
        If only one of optimizer and step is given, or they do not belong together.
    FileNotFoundError
        If the folder holds no run.
    CheckpointError
        If there is no such file, it is damaged, or of another network, optimizer or scheduler.
    """
    if posterior is None:
        folder = RunFolder(Path(path))
        device = folder.settings().train.device
        here = start(ALONE, mode="local", device=device) if world is None else world
        return load_trained(here, folder, reads=False)
    if optimizer is not None and step is not None:
        return go_on(path, posterior, optimizer, step, scheduler=scheduler, missing_ok=missing_ok)
    if optimizer is not None or step is not None or scheduler is not None:
        raise ValueError(
            "hb.load: to go on with a training give posterior, optimizer and step, to predict the "
            "posterior alone"
        )
    return _weights(Path(path), posterior)


def _weights(path: Path, posterior: Posterior) -> int:
    state = checkpoint.load(path, moments=False)
    nothing = nn.Module()
    restore(path, replace(state, loss={}), posterior, nothing, None)
    if state.ema:
        own = {n: w for n, w in state.ema["weights"].items() if not n.startswith("loss.")}
        averages = replace(state, ema={**state.ema, "weights": own})
        restore_ema(path, averages, posterior, nothing, None)
    return state.step
