"""The training loop of ``hpc-bnn train``: steps, validation, metrics, checkpoints, resume."""

import logging
import time
from typing import Any

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.lock import release
from hpc_bnn.models.find import describe_failure
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.auto_grid import AutoGrid
from hpc_bnn.train.run.build import build, read_source
from hpc_bnn.train.run.checkpoint import available
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.stop import Stop
from hpc_bnn.train.run.training import Training
from hpc_bnn.train.run.versions import code_here, code_of_model, versions_here

log = logging.getLogger(__name__)


def train(
    settings: Settings,
    world: World,
    folder: RunFolder,
    *,
    resume: bool = False,
    began: float | None = None,
    auto: AutoGrid | None = None,
) -> dict[str, Any]:
    """Collective over the world: train as the settings say and return what ``summary.json`` holds.

    Every rank ends if any fails; the last good checkpoint stays. ``began`` is the time
    (``time.monotonic()``) from which ``train.max_time`` counts, now if left out.
    ``auto`` tells how the grid was training.

    Raises
    ------
    SettingsError, ValueError
        If settings, grid, data and folder do not fit together, or a network of a user's own fails.
    CheckpointError
        If the run cannot be resumed or saved.
    FloatingPointError, GuardError
        From a step (``hb.Step``).
    LockError
        If another job works in the folder, or it was deleted or taken over meanwhile.
    Unfinished
        If a signal or ``train.max_time`` ended the run early, after a checkpoint.
    NotBegun
        If a signal ended it before the first step.
    """
    began = time.monotonic() if began is None else began
    limit = settings.train.max_time
    with Stop(world.all_ranks, max_time_s=limit, began=began, at_once=True) as stop:
        try:
            return _train(settings, world, folder, stop, auto, resume=resume, began=began)
        except Exception as error:
            failure = describe_failure(settings.model.name, error)
            if not failure:
                raise
            raise ValueError(failure) from error


def _train(
    settings: Settings,
    world: World,
    folder: RunFolder,
    stop: Stop,
    auto: AutoGrid | None,
    *,
    resume: bool,
    began: float,
) -> dict[str, Any]:
    world.watchdog.pause()
    agree(world.all_ranks, {"settings": dump_settings(settings), "resume": resume}, name="settings")
    same_environment = "use one environment on all nodes"
    agree(world.all_ranks, versions_here(), name="versions", advice=same_environment)
    code = world.all_ranks.together(
        lambda: None if world.node_rank else code_here(), name="reading the code"
    )
    agree(world.all_ranks, code, name="code of hpc_bnn", advice=same_environment)
    model = settings.model.name
    code = world.all_ranks.together(
        lambda: None if world.node_rank else code_of_model(model), name="reading the model"
    )
    same_model = "use one copy of it on all nodes"
    agree(world.all_ranks, code, name=f"code of model.name = {model}", advice=same_model)
    world.grid.own_samples(settings.posterior.samples)
    world.grid.own_examples(settings.train.batch_size)
    world.all_ranks.on_first(lambda: folder.check(settings, resume=resume), name="run folder")
    source = auto.source if auto else None
    source = source or read_source(settings, world.all_ranks)
    parts = world.all_ranks.together(lambda: build(settings, source), name="building the model")
    run = Training(settings, world, folder, parts, stop, began, auto)
    if not world.all_ranks.on_first(lambda: available(folder.checkpoints), name="checkpoints"):
        run.start_from()
    # Claimed last: settings that failed so far do not bind the folder.
    lock = world.all_ranks.together(
        lambda: folder.claim(settings, resume=resume, source=source) if world.is_first else None,
        name="run folder",
    )
    if lock is not None:
        stop.watch(lock.require_own)
    try:
        return run.train(resume=resume)
    finally:
        release(lock)
