"""What forecasts of a run take of a rank and of the disk: ``hpc-bnn train --estimate``.

Tensors without numbers go through a pass of one member from as many starts as go through together
(``hpc_bnn.train.score.dealt_starts``); members, lead times and the number of starts add nothing to
it. What happens to states on their way into the file is counted, and so are the weights that are
kept for further starts (``hpc_bnn.train.score.kept_draws``), as if every rank drew all members.

Letters: B starts, h states of the history, C channels, H latitude, W longitude.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.config import Settings
from hpc_bnn.data.source import Fields
from hpc_bnn.train.plan.estimate import size_text
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.plan.traced import forget_numbers
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.dealt_starts import most_at_once
from hpc_bnn.train.score.kept_draws import kept_bytes, size_of
from hpc_bnn.train.score.rollout import DEFAULT_HOURS

# Numbers of a state: float64 in physical units, float32 of it, and big-endian as they are written.
ON_ITS_WAY = 8 + 4 + 4


@dataclass(frozen=True)
class ForecastMemory:
    """Bytes of a rank beyond the parameters: the ``work`` of a pass from so many starts at once and
    the weights that are ``kept`` for further starts; and those of the ``file`` of one start with so
    many members and lead times.
    """

    work: int
    kept: int
    at_once: int
    file: int
    members: int
    steps: int


def forecast_memory(parts: Parts, settings: Settings, fields: Fields) -> ForecastMemory:
    """Return the memory of a forecast with the lead times and members of the run.

    ``parts`` cannot be used afterwards: their tensors lose their numbers.
    """
    posterior, source = parts.posterior, parts.source
    points = len(fields.channels) * len(fields.latitude) * len(fields.longitude)
    at_once = most_at_once(4 * fields.history * points)
    mode = FakeTensorMode()
    forget_numbers(parts, mode)
    with mode:
        posterior.initialise()
    dtype = next(posterior.parameters()).dtype
    known = [*posterior.parameters(), *posterior.buffers()]
    one_sample = posterior.predicting(0, range(at_once))
    key = posterior.key(0, (0,), Purpose.PREDICTION)
    with mode, torch.no_grad(), one_sample, LiveMemory(known) as live:
        x = torch.empty((at_once, *source.input_shape), dtype=dtype)
        posterior(x, key)
    with mode, torch.no_grad():
        weights_bytes = size_of(posterior.sample(key).values()) if posterior.draws else 0
    # The history that was read for all members, that of now and that of one step later.
    states = at_once * points * (3 * 4 * fields.history + ON_ITS_WAY)
    members = posterior.prediction_samples(settings.posterior.predict_samples)
    steps = settings.evaluation.steps or max(1, DEFAULT_HOURS // fields.step_hours)
    draws = members * (steps if settings.forecast.redraw == "each_step" else 1)
    return ForecastMemory(
        work=int(live.peak) + states,
        kept=kept_bytes(weights_bytes, draws),
        at_once=at_once,
        file=4 * members * steps * points,
        members=members,
        steps=steps,
    )


def forecast_line(found: ForecastMemory, held: int) -> str:
    """Return it as a line of the estimate. held: the parameters, on CPUs the process, too."""
    starts = "one start" if found.at_once == 1 else f"{found.at_once} starts"
    total, file = size_text(held + found.work + found.kept), size_text(found.file).strip()
    return (
        f"  hpc-bnn forecast, by itself        {total} ({starts} a pass; a file of "
        f"{found.members} members x {found.steps} steps: {file})"
    )
