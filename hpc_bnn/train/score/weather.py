"""Score the ensemble forecasts of a run against what happened, persistence and climatology.

Start times are spread over all ranks; each rank forecasts its own with all members and scores them,
and only scores are exchanged. So they are the same on any number of ranks.

A rank holds the states of all members of as few start times as one, normalised, on the host: what
is scored in physical units is a band of one channel (``bands``).

Letters: M members, B start times, C channels, H latitude, W longitude.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.data.source import Fields
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.bands import HeldForecasts
from hpc_bnn.train.score.climatology_fit import fit_climatology
from hpc_bnn.train.score.noise_times import HOUR_S
from hpc_bnn.train.score.rollout import DEFAULT_HOURS, Rollout
from hpc_bnn.train.score.scoring import examples_at_once
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.verify.channel_scores import ChannelScores
from hpc_bnn.verify.climatology import Climatology
from hpc_bnn.verify.spectrum import Spectra, SpectraTally
from hpc_bnn.verify.start_scores import StartScores
from hpc_bnn.verify.weather import WeatherTally

log = logging.getLogger(__name__)

MAPS = 10  # lead times of which maps are drawn, at most


@dataclass(frozen=True, eq=False)
class Picture:
    """One forecast to draw: mean, spread and truth (C, H, W) of the channels that are drawn at a
    lead, physical units in float32; NaN at points that never have a value. spread: NaN of one
    member.
    """

    start_s: int
    lead: int
    mean: Tensor
    spread: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Drawn:
    """Of which start time, leads and channels pictures are kept."""

    start_s: int
    leads: frozenset[int]
    channels: list[int]


@dataclass(frozen=True, eq=False)
class WeatherScores:
    """The scores of all ranks, and on the first rank forecasts of one start time to draw.

    by_channel: over all starts, by the name of the channel. of_starts: of each of them. spectra:
    (L, C, K), means over the starts.
    """

    by_channel: Mapping[str, ChannelScores]
    of_starts: StartScores
    spectra: Spectra
    pictures: tuple[Picture, ...]

    @property
    def starts(self) -> Tensor:
        """The start times (N,), seconds since 1970."""
        return self.of_starts.starts

    @property
    def lead_hours(self) -> tuple[float, ...]:
        """The lead times."""
        return self.of_starts.lead_hours


def score_weather(
    trained: Trained, world: World, *, drawn: Sequence[int] | None = None
) -> WeatherScores:
    """Collective over the world: forecast from start times of the test split and score.

    ``world`` must have one sample rank: a rank computes all members of its start times.
    drawn: the channels of which pictures are kept; None: all.

    Raises
    ------
    ValueError
        If the test split has no forecast of as many steps as asked for.
    """
    settings = trained.settings
    rollout = Rollout(trained.parts, world.device, redraw=settings.forecast.redraw)
    fields, members = rollout.fields, trained.predict_samples
    starts, steps = _starts(
        fields.test_times, rollout.step_s, settings.evaluation.steps, settings.evaluation.starts
    )
    channels, rows, columns = trained.parts.source.output_shape
    climatology = fit_climatology(
        rollout, world, (channels, rows, columns), settings.evaluation.climatology_states
    )
    tally = WeatherTally(
        starts=len(starts),
        leads=steps,
        channels=channels,
        members=members,
        area=cell_area(fields.latitude),
        present=fields.present,
    )
    leads = _leads_to_draw(steps, day=min(steps, _day(fields.step_hours)))
    places = _own_places(len(starts), world.grid.world_rank, world.grid.world_size)
    wanted = Drawn(
        int(starts[len(starts) // 2]), leads, list(range(channels) if drawn is None else drawn)
    )
    spectra = _spectra_tally(fields, steps)
    pictures: list[Picture] = []
    size = starts_at_once(trained)

    def score() -> None:
        for i, part in enumerate(torch.split(places, size) if len(places) else ()):
            with torch.no_grad():
                pictures.extend(_score(rollout, tally, spectra, climatology, part, starts, wanted))
            done = i * size + len(part)
            log.info("forecast %d of %d start times of this rank", done, len(places))

    world.all_ranks.together(score, name="forecasts")
    for name, held in tally.sums.items():
        tally.sums[name] = world.all_ranks.all_reduce(held, reduction="sum", name=f"scores.{name}")
    spectra.sums = world.all_ranks.all_reduce(spectra.sums, reduction="sum", name="spectra")
    lead_hours = tuple(float(fields.step_hours * (lead + 1)) for lead in range(steps))
    units = [channel.units for channel in fields.channels]
    of_starts = tally.of_starts(starts, lead_hours, fields.names, units)
    scores = tally.result(of_starts)
    return WeatherScores(scores, of_starts, spectra.result(), tuple(pictures))


def starts_at_once(trained: Trained) -> int:
    """Return how many start times are forecast together: as many as fit, at least one."""
    fields = trained.parts.source.fields
    assert fields is not None
    channels, rows, columns = trained.parts.source.output_shape
    state_bytes = 4 * fields.history * channels * rows * columns * trained.predict_samples
    return examples_at_once(state_bytes, trained.settings.train.batch_size)


def _spectra_tally(fields: Fields, leads: int) -> SpectraTally:
    """Return what sums spectra: of channels that have values at every point of a globe."""
    whole = [fields.periodic] * len(fields.channels)
    if fields.periodic and fields.present is not None:
        whole = fields.present.flatten(1).all(1).tolist()
    columns, area = len(fields.longitude), cell_area(fields.latitude)
    return SpectraTally(leads=leads, columns=columns, area=area, whole=whole)


def _own_places(starts: int, rank: int, ranks: int) -> Tensor:
    """Return the positions of the start times of a rank. The first rank has the middle one, of
    which pictures are drawn.
    """
    order = (torch.arange(starts) + starts // 2) % starts
    return order[rank::ranks].sort().values


def _score(
    rollout: Rollout,
    tally: WeatherTally,
    spectra: SpectraTally,
    climatology: Climatology,
    places: Tensor,
    all_starts: Tensor,
    drawn: Drawn,
) -> list[Picture]:
    """Forecast from the start times at B places and add the scores; return what is to be drawn.

    All members are on the host, one of them on the device.
    """
    starts = all_starts[places]
    first = rollout.history(starts)
    histories = [rollout.first(first, starts, member).cpu() for member in range(tally.members)]
    persistence = first[:, -1].cpu()
    pictures = []
    _, leads, channels, _ = tally.sums["rows"].shape
    for lead in range(leads):
        for member in range(tally.members):
            network = rollout.networks(member, starts)(lead)
            history = histories[member].to(rollout.device)
            histories[member] = rollout.advance(history, starts, lead, member, network).cpu()
        del history  # that of the last member, before its step
        valid = starts + (lead + 1) * rollout.step_s
        held = HeldForecasts(
            fields=rollout.fields,
            climatology=climatology,
            device=rollout.device,
            members=[history[:, -1] for history in histories],
            truth=rollout.states(valid).cpu(),
            persistence=persistence,
            valid=valid,
        )
        for channel in range(channels):
            bands = spectra.passing(lead, channel, held.bands(channel))
            tally.add(lead, channel, places.tolist(), bands)
        if drawn.start_s in starts.tolist() and lead in drawn.leads:
            at = starts.tolist().index(drawn.start_s)
            pictures.append(_picture(held, at, lead, drawn))
        del held  # the states of all members, beside which those of the next lead time would stand
    return pictures


def _picture(held: HeldForecasts, at: int, lead: int, drawn: Drawn) -> Picture:
    """Return the picture of the start time at a position of the forecasts."""
    shape = (3, len(drawn.channels), *held.truth.shape[2:])
    fields = torch.empty(shape, dtype=torch.float32)
    for i, channel in enumerate(drawn.channels):
        for rows, forecasts in held.bands(channel):
            members = forecasts.members[:, at]
            spread = torch.full_like(members[0], torch.nan)
            if len(members) > 1:
                spread = members.std(0, correction=1)
            for field, x in zip(
                fields, (members.mean(0), spread, forecasts.truth[at]), strict=True
            ):
                field[i, rows] = x
    if held.fields.present is not None:
        fields.masked_fill_(~held.fields.present[drawn.channels], torch.nan)
    return Picture(drawn.start_s, lead, *fields)


def _starts(times: Tensor, step_s: int, steps: int, most: int) -> tuple[Tensor, int]:
    """Choose start times, evenly spaced, from which every lead time lies in the test split.

    times: (n,), of which each has a state one step later. steps: 0 for the default.
    """
    reach = torch.zeros(len(times), dtype=torch.long)  # steps that the split allows from each time
    position = {time: i for i, time in enumerate(times.tolist())}
    for i in range(len(times) - 1, -1, -1):
        following = position.get(int(times[i]) + step_s)
        reach[i] = 1 + (0 if following is None else int(reach[following]))
    longest = int(reach.max())
    wanted = steps or max(1, min(longest, DEFAULT_HOURS * HOUR_S // step_s))
    if wanted > longest:
        raise ValueError(
            f"evaluation.steps = {steps}: the longest stretch of the test split holds {longest} "
            "steps; lower it or widen data.test"
        )
    possible = times[reach >= wanted]
    count = min(most, len(possible))
    return possible[torch.arange(count) * len(possible) // count], wanted


def _leads_to_draw(steps: int, *, day: int) -> frozenset[int]:
    """Return at most MAPS leads, from 0 on, evenly spaced, among them that of a day and the last.

    day: the number of steps in a day.
    """
    count = min(MAPS, steps)
    even = {(i + 1) * steps // count - 1 for i in range(count)}
    if day - 1 not in even:
        even.remove(min(even - {steps - 1}, key=lambda lead: abs(lead - (day - 1))))
    return frozenset({*even, day - 1})


def _day(step_hours: int) -> int:
    """Return the number of steps in a day, at least 1."""
    return max(1, 24 // step_hours)
