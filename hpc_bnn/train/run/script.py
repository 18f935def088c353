"""Save and go on with the training of a script of a user's own: ``hb.save`` and ``hb.load``.

The file is a checkpoint as ``hpc-bnn train`` writes it. It holds all that the next step follows
from: weights, the optimizer's moments, the number of steps made, which keys the noise, moving
averages, and the scheduler of the rate.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.train.run import checkpoint
from hpc_bnn.train.run.checkpoint import Checkpoint, CheckpointError
from hpc_bnn.train.run.handover import gathered, require_finite, take
from hpc_bnn.train.run.versions import versions
from hpc_bnn.train.step.step import Step

log = logging.getLogger(__name__)

PLAIN = (type(None), bool, int, float, str)


class Scheduler(Protocol):
    """What sets the rate: a scheduler of ``torch.optim.lr_scheduler``."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


def save(
    path: str | Path,
    posterior: Posterior,
    optimizer: torch.optim.Optimizer,
    step: Step,
    *,
    scheduler: Scheduler | None = None,
) -> None:
    """Collective over the world of ``step``: write all that the next step follows from into a file,
    whole or not at all; any grid of ranks goes on from it.

    Raises
    ------
    ValueError
        If ``step`` trains another posterior, or moves it by another optimizer, or the scheduler
        holds something other than numbers and texts.
    CheckpointError
        If the file cannot be written; what was there stays.
    FloatingPointError
        If a parameter is not finite.
    """
    ranks = step.world.all_ranks
    ranks.together(lambda: _require_parts("hb.save", posterior, optimizer, step), name="hb.save")
    held = ranks.together(lambda: _state_of(scheduler), name="hb.save: scheduler")
    state: Checkpoint | None = None
    if step.world.grid.data_rank == 0:  # one sample axis has all of it
        state = gathered(
            step.world,
            posterior,
            step.loss,
            optimizer,
            step.ema,
            step=step.step,
            position=_facts(step),
            settings="",
            versions=versions() if step.world.is_first else {},
            scheduler=held,
        )

    def write() -> None:
        assert state is not None
        require_finite(posterior, state)
        checkpoint.write(Path(path), state)

    ranks.on_first(write, name="hb.save")


def go_on(
    path: str | Path,
    posterior: Posterior,
    optimizer: torch.optim.Optimizer,
    step: Step,
    *,
    scheduler: Scheduler | None = None,
    missing_ok: bool = False,
) -> int:
    """Collective over the world of ``step``: put what ``save`` wrote into the parts of a training,
    so that its next step is the one after; return how many steps were made.

    missing_ok: 0 where there is no such file.

    Raises
    ------
    ValueError
        As from ``save``.
    CheckpointError
        If there is no such file, it is damaged, or of another network, optimizer or scheduler.
    """
    world, path = step.world, Path(path)
    ranks = world.all_ranks
    ranks.together(lambda: _require_parts("hb.load", posterior, optimizer, step), name="hb.load")
    schedules: list[Mapping[str, Any]] = []

    def read() -> tuple[Path, Checkpoint] | None:
        if missing_ok and not path.exists():
            return None
        state = checkpoint.load(path)
        for what, here, there in (
            ("scheduler", scheduler, state.scheduler),
            ("moving average (ema of hb.Step)", step.ema, state.ema),
        ):
            if (here is None) != (not there):
                side, other = ("the file", "this script") if there else ("this script", "the file")
                raise CheckpointError(
                    f"{path}: {side} has a {what}, {other} has none: it would go on as another "
                    "training; give the same to hb.save and hb.load"
                )
        kind = type(scheduler).__name__
        if state.scheduler and state.scheduler["class"] != kind:
            saved = state.scheduler["class"]
            raise CheckpointError(
                f"{path}: checkpoint of another scheduler: {saved} in it, {kind} here; make the "
                "one of the script that saved it"
            )
        schedules.append(state.scheduler)
        return path, state

    taken = take(world, read, lambda _: (posterior, step.loss), optimizer, step.ema)
    if taken is None:
        return 0
    state = taken[1]
    schedule = ranks.broadcast(dict(schedules[0]) if schedules else {}, name="scheduler")
    if scheduler is not None:
        scheduler.load_state_dict(dict(schedule["state"]))
    step.step = state.step
    for name, now in _facts(step).items():
        before = state.position.get(name, now)
        if before != now and world.is_first:
            log.warning(
                "%s: %s = %s then, %s now: the training goes on as another one",
                path,
                name,
                before,
                now,
            )
    return step.step


def _facts(step: Step) -> dict[str, int]:
    """Return numbers that the steps of a training follow from."""
    return {
        "seed": step.posterior.seed,
        "samples": step.settings.samples,
        "num_examples": step.settings.num_examples,
    }


def _require_parts(
    function: str, posterior: Posterior, optimizer: torch.optim.Optimizer, step: Step
) -> None:
    if not isinstance(step, Step):
        kind = type(step).__name__
        raise ValueError(f"{function}: step is of type {kind}: expected the hb.Step of the script")
    for name, given, trained in (
        ("posterior", posterior, step.posterior),
        ("optimizer", optimizer, step.optimizer),
    ):
        if given is not trained:
            raise ValueError(f"{function}: the step was made of another {name}; give that one")


def _state_of(scheduler: Scheduler | None) -> dict[str, Any]:
    if scheduler is None:
        return {}
    state = scheduler.state_dict()
    _require_plain("scheduler", state)
    return {"class": type(scheduler).__name__, "state": state}


def _require_plain(name: str, value: object) -> None:
    """Raise ValueError where a file could not give a value back as it was."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        for item in value:
            _require_plain(name, item)
    elif type(value) not in PLAIN:
        raise ValueError(
            f"hb.save: {name} is of type {type(value).__name__}: expected numbers and texts, which "
            "a checkpoint gives back as they were; such as float(x)"
        )
