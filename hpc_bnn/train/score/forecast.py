"""An ensemble forecast from one start time, its members spread over all ranks, into one file."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import hpc_bnn
from hpc_bnn.config import dump_settings
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.data.source import Fields
from hpc_bnn.fields import times
from hpc_bnn.fields.forecast_file import (
    ForecastFile,
    create_forecast,
    finish,
    require_writable,
)
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.rollout import DEFAULT_HOURS, DRAWN, HOUR_S, Rollout
from hpc_bnn.train.score.trained import Trained

log = logging.getLogger(__name__)


LATEST = "latest"
MOST_MAPS = 4  # lead times that are drawn


def start_time(fields: Fields, text: str) -> int:
    """Return the start of a forecast, seconds since 1970: a time, or the latest whose history the
    files hold.

    Raises
    ------
    ValueError
        If the text is no time, or no state has a history.
    """
    if text != LATEST:
        return times.parse(text, end=False)
    known = fields.record.times.tolist()
    held, step_s = set(known), fields.step_hours * HOUR_S
    back = range(fields.history)
    found = (t for t in reversed(known) if all(t - k * step_s in held for k in back))
    start = next(found, None)
    if start is None:
        raise ValueError(
            f"--start {LATEST}: no {fields.history} states of the files (data.history) are "
            f"{fields.step_hours} h apart"
        )
    return int(start)


def default_steps(trained: Trained, fields: Fields) -> int:
    """Return the lead times of a forecast that names none: those of the evaluation, or five
    days.
    """
    chosen = trained.settings.evaluation.steps
    return chosen or max(1, DEFAULT_HOURS // fields.step_hours)


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is to be drawn of a forecast: ``mean`` and ``spread`` (L, C, H, W) at some leads."""

    leads: tuple[int, ...]
    mean: Tensor
    spread: Tensor | None


def forecast(
    trained: Trained,
    world: World,
    path: Path,
    *,
    start_s: int,
    steps: int,
    members: int,
    draws: bool = False,
) -> Drawn | None:
    """Collective over the world: forecast ``steps`` steps with ``members`` members into ``path``;
    with ``draws`` return what can be drawn of it.

    start_s: seconds since 1970; its state, and the history that the network needs, are in the files
    of the data set. A rank holds one state at a time and writes it to its place in the file.

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
    redraw = trained.settings.forecast.redraw
    rollout = world.all_ranks.together(
        lambda: Rollout(trained.parts, world.device, redraw=redraw), name="rollout"
    )
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
    leads = _spread_out(steps) if draws else ()
    # Of what differs from the start: sums of squares lose digits otherwise.
    origin = fields.physical(first[0, -1]).cpu()
    sums = torch.zeros(2, len(leads), *origin.shape, dtype=torch.float64)

    def write() -> None:
        with ForecastFile(path, present=present) as file:
            for member in own.tolist():
                networks = rollout.networks(member, starts)
                history = rollout.first(first, starts, member)
                for lead in range(steps):
                    history = rollout.advance(history, starts, lead, member, networks(lead))
                    state = fields.physical(history[0, -1]).to(torch.float32)
                    file.write(member, lead, state.cpu().numpy())
                    if lead in leads:
                        change = state.cpu().double() - origin
                        sums[:, leads.index(lead)] += torch.stack([change, change.square()])
                log.info("member %d of %d is written", member, members)

    world.all_ranks.together(write, name="forecast")

    def end() -> None:
        require_writable(path, sources)  # hours may have passed since the first look
        finish(path)

    world.all_ranks.on_first(end, name="forecast file")
    if not leads:
        return None
    total, squares = world.all_ranks.all_reduce(sums, reduction="sum", name="maps")
    mean = total / members
    variance = (squares / members - mean.square()).clamp(min=0) * members / max(1, members - 1)
    return Drawn(leads, origin + mean, variance.sqrt() if members > 1 else None)


def draw_forecast(
    fields: Fields, drawn: Drawn, path: Path, *, start_s: int, members: int
) -> list[Path]:
    """Draw maps of the best-known channels beside ``path``; call it on one rank."""
    from hpc_bnn.verify.forecast_maps import plot_forecast_maps  # draws: seconds of imports
    from hpc_bnn.verify.weather_plots import channels_to_draw

    pictures = []
    for name in channels_to_draw(fields.names):
        at = fields.names.index(name)
        pictures.append(
            plot_forecast_maps(
                drawn.mean[:, at],
                None if drawn.spread is None else drawn.spread[:, at],
                fields.latitude,
                fields.longitude,
                path.with_name(f"{path.stem}-{name}.png"),
                name=name,
                units=fields.channels[at].units,
                start_s=start_s,
                lead_hours=[fields.step_hours * (lead + 1) for lead in drawn.leads],
                members=members,
            )
        )
    return pictures


def _spread_out(steps: int) -> tuple[int, ...]:
    """Choose lead times to draw: the last one and others at even distances before it."""
    count = min(MOST_MAPS, steps)
    return tuple(steps * (i + 1) // count - 1 for i in range(count))


def _attributes(trained: Trained) -> dict[str, str]:
    kept = DRAWN[trained.settings.forecast.redraw]
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
    source = trained.parts.source
    return {
        "title": "Ensemble forecast of a Bayesian neural network",
        "source": f"hpc_bnn {hpc_bnn.__version__}, {trained.settings.model.name} after "
        f"{trained.step} training steps on {source.name}",
        "history": f"{now} UTC: hpc_bnn {hpc_bnn.__version__} forecast, torch "
        f"{torch.__version__}, numpy {np.__version__}",
        "comment": f"each member is one sample of the weights, {kept}",
        "config": dump_settings(trained.settings),
    }
