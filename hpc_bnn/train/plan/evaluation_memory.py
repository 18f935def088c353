"""The memory that a rank of ``hpc-bnn evaluate`` takes to score forecasts of fields, told before.

Counted like a training (``estimate``): states of all members of the start times that are forecast
together, one member as it is computed (tensors without numbers go through the network), the
climatology, and a band of a channel, a small piece of which is really scored. Pictures are made of
what the first rank keeps; the library that draws them is not counted.

Letters: N start times, B start times forecast together, h states of the history, C channels, H
latitude, W longitude.
"""

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.bayes.noise import Purpose
from hpc_bnn.config import Settings
from hpc_bnn.data.source import Fields, Source
from hpc_bnn.train.plan.estimate import lost_by_malloc, size_text
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.plan.traced import forget_numbers
from hpc_bnn.train.run.build import Parts, build
from hpc_bnn.train.score.bands import rows_at_once
from hpc_bnn.train.score.climatology_fit import spacing_hours, states_at_once
from hpc_bnn.train.score.rollout import DEFAULT_HOURS
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.train.score.weather import MAPS, starts_at_once
from hpc_bnn.verify.climatology import DAY_S, harmonics
from hpc_bnn.verify.field_sums import FieldForecasts, field_sums
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS
from hpc_bnn.verify.weather import LEVELS
from hpc_bnn.verify.weather_plots import channels_to_draw

YEAR_S = 366 * DAY_S
# glibc gives larger blocks pages of their own, which it loses nothing of (mallopt(3)).
MOST_ON_HEAP = 1 << 25


@dataclass(frozen=True)
class EvaluationMemory:
    """Bytes of one rank beside process, parameters and optimizer.

    members: states of all members, where they start and the truth. forecast: a member as it is
    computed. band: a band of a channel and what scoring it takes. climatology: its coefficients and
    scatter. reading: states that it is being fitted to. kept: scores of every start, and pictures.
    lost: between tensors, where the host is the device; no tensors.
    """

    members: int
    forecast: int
    band: int
    climatology: int
    reading: int
    kept: int
    lost: int = 0

    @property
    def device(self) -> int:
        """What a GPU holds."""
        return max(self.forecast, self.band)

    @property
    def host(self) -> int:
        """What the host holds beside the device."""
        return self.climatology + max(self.reading, self.members + self.kept)

    @property
    def cpu(self) -> int:
        """What the host holds where it is the device."""
        forecasts = self.members + self.kept + self.device
        return self.climatology + max(self.reading, forecasts)


def evaluation_memory(settings: Settings, source: Source, ranks: int) -> EvaluationMemory | None:
    """Return the memory of an evaluation on so many ranks; None where no fields are forecast."""
    fields = source.fields
    if fields is None:
        return None
    parts = build(settings, source)
    trained = Trained(settings, parts, 0)
    channels, height, width = source.output_shape
    members, points = trained.predict_samples, height * width
    starts = settings.evaluation.starts
    if len(fields.test_times):
        starts = min(starts, len(fields.test_times))
    at_once = min(starts_at_once(trained), -(-starts // ranks))
    dtype = torch.promote_types(next(parts.posterior.parameters()).dtype, torch.float32)
    state = channels * points * dtype.itemsize
    steps = settings.evaluation.steps or max(1, DEFAULT_HOURS // fields.step_hours)
    row = 1 + len(COLUMNS) + len(EVENT_COLUMNS) * len(LEVELS)
    pictures = 3 * len(channels_to_draw(fields.names)) * min(MAPS, steps) * 4 * points
    waves = _basis_functions(fields)
    read = states_at_once((channels, height, width))
    held = at_once * ((members + 1) * fields.history + 1) * state
    forecast = _forecast_bytes(parts, fields, at_once, dtype)
    band = _band_bytes(members, at_once, (height, width))
    on_heap = held if at_once * fields.history * state < MOST_ON_HEAP else 0
    return EvaluationMemory(
        members=held,
        forecast=forecast,
        band=band,
        lost=lost_by_malloc(on_heap + max(forecast, band)),
        climatology=(waves + 1) * channels * points * 8,
        reading=read * (state + channels * points * 4) + min(read, waves) * channels * points * 8,
        kept=pictures + 2 * starts * steps * channels * row * 8,  # twice as they are added up
    )


def told_evaluation(found: EvaluationMemory, held: int, *, gpu: bool) -> str:
    """Return the evaluation as a line of the estimate. held: parameters and optimizer, on CPUs the
    process, too.
    """
    line = "  hpc-bnn evaluate, by itself        "
    if gpu:
        return f"{line}{size_text(held + found.device)} (and on the host: {size_text(found.host)})"
    return line + size_text(held + found.cpu + found.lost)


def _basis_functions(fields: Fields) -> int:
    """Return how many coefficients the climatology has at a point; those of a year where no times
    are known.
    """
    times = fields.train_times
    if len(times):
        annual, daily = harmonics(int(times[0]), int(times[-1]), spacing_hours(times))
    else:
        annual, daily = harmonics(0, YEAR_S, fields.step_hours)
    return (1 + 2 * annual) * (1 + 2 * daily)


def _forecast_bytes(parts: Parts, fields: Fields, starts: int, dtype: torch.dtype) -> int:
    """Return the most memory while one member of B start times is stepped forward.

    ``parts`` cannot be used afterwards: their tensors lose their numbers.
    """
    posterior, loss = parts.posterior, parts.loss
    channels, height, width = parts.source.output_shape
    of_network = next(posterior.parameters()).dtype
    posterior.hold(range(1))
    mode = FakeTensorMode()
    forget_numbers(parts, mode)
    with mode:
        posterior.initialise()
    known = [*posterior.parameters(), *posterior.buffers(), *loss.parameters(), *loss.buffers()]
    inputs = channels * fields.history + len(fields.forcing)
    one_sample = posterior.predicting(0, range(starts))
    with mode, torch.no_grad(), one_sample, LiveMemory(known) as live:
        x = torch.empty((starts, inputs, height, width), dtype=dtype)
        of_member = x.to(of_network)
        output = posterior(of_member, posterior.key(0, range(1), Purpose.PREDICTION))
        mean, _ = loss.forecast(output.to(dtype))
        history = x[:, : channels * fields.history]
        history[:, -channels:] + mean[0]
        torch.cat([history, x[:, :channels]], 1)
    return int(live.peak)


def _band_bytes(members: int, starts: int, points: tuple[int, int]) -> int:
    """Return the memory of a band, of which a row is really scored."""
    height, width = points
    generator = torch.Generator().manual_seed(0)
    shape = (starts, 1, width)
    with LiveMemory() as live:
        drawn = torch.rand((members, *shape), dtype=torch.float64, generator=generator)
        others = [drawn[0] + i for i in range(3)]
        forecasts = FieldForecasts(drawn, *others, others[0][0], drawn[0] * 0.5)
        field_sums(forecasts, torch.ones(1, width, dtype=torch.float64), LEVELS)
    return int(live.peak) * min(height, rows_at_once(members, starts, width))
