"""Score the ensemble forecasts of a run against what happened, persistence and climatology.

Start times are spread over all ranks; each rank forecasts its own with all members and adds up the
scores, and only sums are exchanged. So the scores are the same on any number of ranks.

Letters: M members, B start times, C channels, H latitude, W longitude.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.data.sharding import in_turn
from hpc_bnn.losses.cell_area import cell_area
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.rollout import DEFAULT_HOURS, HOUR_S, Rollout
from hpc_bnn.train.score.scoring import examples_at_once
from hpc_bnn.train.score.trained import Trained
from hpc_bnn.verify.climatology import Climatology, HarmonicSums, harmonics
from hpc_bnn.verify.weather import WeatherTally

log = logging.getLogger(__name__)

MAPS = 10  # lead times of which maps are drawn, at most
READ_AT_ONCE = 16  # states of the climatology
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class Picture:
    """One forecast to draw: members (M, C, H, W) and truth (C, H, W) of the channels that are drawn
    at a lead, physical units; NaN at points that never have a value.
    """

    start_s: int
    lead: int
    members: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Drawn:
    """Of which start time, leads and channels pictures are kept."""

    start_s: int
    leads: frozenset[int]
    channels: list[int]


@dataclass(frozen=True, eq=False)
class WeatherScores:
    """The sums of all ranks, and forecasts of one start time to draw."""

    tally: WeatherTally
    lead_hours: tuple[int, ...]
    starts: Tensor
    pictures: tuple[Picture, ...]


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
    climatology = _climatology(
        rollout, world, (channels, rows, columns), settings.evaluation.climatology_states
    )
    tally = WeatherTally(
        leads=steps,
        channels=channels,
        members=members,
        area=cell_area(fields.latitude),
        present=fields.present,
    )
    leads = _leads_to_draw(steps, day=min(steps, _day(fields.step_hours)))
    wanted = Drawn(
        int(starts[len(starts) // 2]), leads, list(range(channels) if drawn is None else drawn)
    )
    pictures: list[Picture] = []
    own = starts[
        in_turn(len(starts), data_rank=world.grid.world_rank, data_ranks=world.grid.world_size)
    ]
    state_bytes = 4 * fields.history * channels * rows * columns * members
    size = examples_at_once(state_bytes, settings.train.batch_size)

    def score() -> None:
        for i, part in enumerate(torch.split(own, size) if len(own) else ()):
            pictures.extend(_score(rollout, tally, climatology, part, steps, wanted))
            log.info("forecast %d of %d start times of this rank", i * size + len(part), len(own))

    world.all_ranks.together(score, name="forecasts")
    tally.sums = world.all_ranks.all_reduce(tally.sums, reduction="sum", name="scores")
    gathered = world.all_ranks.gather(pictures, name="pictures")
    lead_hours = tuple(fields.step_hours * (lead + 1) for lead in range(steps))
    return WeatherScores(tally, lead_hours, starts, tuple(p for each in gathered for p in each))


def _score(
    rollout: Rollout,
    tally: WeatherTally,
    climatology: Climatology,
    starts: Tensor,
    steps: int,
    drawn: Drawn,
) -> list[Picture]:
    """Forecast from start times (B,) and add the scores; return what is to be drawn of them."""
    physical = rollout.fields.physical
    first = rollout.history(starts)
    histories = [rollout.first(first, starts, member) for member in range(tally.members)]
    persistence = physical(first[:, -1]).cpu()
    std = climatology.std * rollout.fields.state_std[:, None, None]
    pictures = []
    for lead in range(steps):
        for member in range(tally.members):
            network = rollout.networks(member, starts)(lead)
            histories[member] = rollout.advance(histories[member], starts, lead, member, network)
        valid = starts + (lead + 1) * rollout.step_s
        members = torch.stack([physical(history[:, -1]).cpu() for history in histories])
        truth = physical(rollout.states(valid)).cpu()
        tally.add(
            lead,
            members,
            truth,
            persistence=persistence,
            climatology=physical(climatology.mean(valid)),
            climatology_std=std,
            uniforms=_uniforms(valid, truth),
        )
        if drawn.start_s in starts.tolist() and lead in drawn.leads:
            at = starts.tolist().index(drawn.start_s)
            kept = members[:, at, drawn.channels], truth[at, drawn.channels]
            pictures.append(Picture(drawn.start_s, lead, *kept))
    return pictures


def _uniforms(valid: Tensor, truth: Tensor) -> Tensor:
    """Return what breaks ties of ranks: a function of the valid time."""
    streams = [Stream(0, Purpose.OBSERVATION, int(t) // HOUR_S % 2**32) for t in valid]
    return torch.stack([uniforms(stream, truth.shape[1:]) for stream in streams])


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


def _climatology(
    rollout: Rollout, world: World, shape: tuple[int, int, int], most: int
) -> Climatology:
    """Collective over the world: fit the climatology to normalised states (C, H, W) of the training
    split.
    """
    times = rollout.fields.train_times
    chosen = times[_spread(len(times), most)]
    annual, daily = harmonics(int(times[0]), int(times[-1]), _spacing_hours(times))
    sums = HarmonicSums(annual, daily, shape)
    turn = in_turn(len(chosen), data_rank=world.grid.world_rank, data_ranks=world.grid.world_size)

    def add() -> None:
        for part in torch.split(chosen[turn], READ_AT_ONCE) if len(turn) else ():
            sums.add(part, rollout.states(part).cpu())

    world.all_ranks.together(add, name="climatology")
    for name in ("gram", "cross", "squares"):
        total = world.all_ranks.all_reduce(
            getattr(sums, name), reduction="sum", name=f"climatology.{name}"
        )
        setattr(sums, name, total)
    return sums.solve()


def _spread(number: int, most: int) -> Tensor:
    """Choose at most so many positions, one of each of equal stretches.

    Where in its stretch, the golden ratio says: equal steps could meet one hour of the day only.
    """
    count = min(most, number)
    edges = torch.arange(count + 1) * number // count
    place = torch.arange(count, dtype=torch.float64) * GOLDEN % 1
    return edges[:-1] + (place * edges.diff()).long()


def _leads_to_draw(steps: int, *, day: int) -> frozenset[int]:
    """Return at most MAPS leads, from 0 on, evenly spaced, among them that of a day and the last.

    day: the number of steps in a day.
    """
    count = min(MAPS, steps)
    even = {(i + 1) * steps // count - 1 for i in range(count)}
    if day - 1 not in even:
        even.remove(min(even - {steps - 1}, key=lambda lead: abs(lead - (day - 1))))
    return frozenset({*even, day - 1})


def _spacing_hours(times: Tensor) -> int:
    gaps = times.diff()
    return max(1, int(gaps.min()) // HOUR_S) if len(gaps) else 24


def _day(step_hours: int) -> int:
    """Return the number of steps in a day, at least 1."""
    return max(1, 24 // step_hours)
