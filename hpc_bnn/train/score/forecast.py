"""An ensemble forecast from one start time, its members spread over all ranks, into one file."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch

import hpc_bnn
from hpc_bnn.config import dump_settings
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.fields.forecast_file import (
    ForecastFile,
    create_forecast,
    finish,
    require_writable,
)
from hpc_bnn.fields.weatherbench_file import levels_of, write_weatherbench
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.rollout import Rollout, noise_keys
from hpc_bnn.train.score.trained import Trained

log = logging.getLogger(__name__)


def forecast(
    trained: Trained,
    world: World,
    path: Path,
    *,
    start_s: int,
    steps: int,
    members: int,
    layout: Literal["cf", "weatherbench"] = "cf",
) -> None:
    """Collective over the world: forecast ``steps`` steps with ``members`` members into ``path``.

    start_s: seconds since 1970; its state, and the history that the network needs, are in the files
    of the data set. A rank holds one state at a time and writes it to its place in the file.
    layout: of the file; "weatherbench" is made of the other by the first rank.

    Raises
    ------
    ValueError
        If the run has fewer weight samples than ``members``, there is no state at the start, or
        the forecast leaves the finite numbers.
    OSError
        If the file cannot be written, or would replace anything but an earlier forecast; no new
        file then has the final name.
    """
    available = trained.parts.posterior.prediction_samples(members)
    if available < members:
        raise ValueError(
            f"members = {members}: this run has {available} weight samples to forecast with; ask "
            f"for at most {available}"
        )
    sources = () if trained.parts.source.fields is None else trained.parts.source.fields.files
    world.all_ranks.on_first(lambda: require_writable(path, sources), name="output")
    rollout = world.all_ranks.together(lambda: Rollout(trained.parts, world.device), name="rollout")
    if layout == "weatherbench":
        levels_of([channel.name for channel in rollout.fields.channels])  # the same on all ranks
    fields, starts = rollout.fields, torch.tensor([start_s])
    first = world.all_ranks.together(lambda: rollout.history(starts), name="start of the forecast")
    lead_hours = [fields.step_hours * (lead + 1) for lead in range(steps)]

    def create() -> None:
        create_forecast(
            path,
            variables=fields.channels,
            latitude=fields.latitude.numpy(),
            longitude=fields.longitude.numpy(),
            start_s=start_s,
            lead_hours=lead_hours,
            members=members,
            attributes=_attributes(trained),
        )

    world.all_ranks.on_first(create, name="forecast file")
    own = in_turn(members, data_rank=world.grid.world_rank, data_ranks=world.grid.world_size)

    present = None if fields.present is None else fields.present.numpy()

    def write() -> None:
        with ForecastFile(path, present=present) as file:
            for member in own.tolist():
                network = trained.parts.posterior.network(member, positions=noise_keys(starts))
                history = first
                for lead in range(steps):
                    history = rollout.advance(history, starts, lead, member, network)
                    state = fields.physical(history[0, -1]).to(torch.float32)
                    file.write(member, lead, state.cpu().numpy())
                log.info("member %d of %d is written", member, members)

    world.all_ranks.together(write, name="forecast")

    def end() -> None:
        require_writable(path, sources)  # hours may have passed since the first look
        finish(path)
        if layout == "weatherbench":
            write_weatherbench(path, path)

    world.all_ranks.on_first(end, name="forecast file")


def _attributes(trained: Trained) -> dict[str, str]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    source = trained.parts.source
    return {
        "title": "Ensemble forecast of a Bayesian neural network",
        "source": f"hpc_bnn {hpc_bnn.__version__}, {trained.settings.model.name} after "
        f"{trained.step} training steps on {source.name}",
        "history": f"{now} UTC: hpc_bnn {hpc_bnn.__version__} forecast, torch "
        f"{torch.__version__}, numpy {np.__version__}",
        "comment": "each member is one sample of the weights, kept through the forecast",
        "config": dump_settings(trained.settings),
    }
