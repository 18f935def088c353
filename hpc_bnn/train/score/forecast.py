"""Ensemble forecasts from one start or many, members and starts dealt over all ranks, into files.

What a rank computes depends on (start, member) alone: the files are the same on any number of
ranks, and after a stop or a kill at any moment the same call goes on to the same bytes.
"""

import logging
import signal
from collections.abc import Sequence
from pathlib import Path

import hpc_bnn
from hpc_bnn.config import dump_settings
from hpc_bnn.data.source import Fields
from hpc_bnn.fields.forecast_layout import Forecast
from hpc_bnn.fields.forecast_plan import ForecastPlan
from hpc_bnn.fields.forecast_set import ForecastSet
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import digest
from hpc_bnn.train.run.stop import Stop, Unfinished
from hpc_bnn.train.run.versions import history_line
from hpc_bnn.train.score.forecast_writer import Drawn, ForecastWriter
from hpc_bnn.train.score.kept_draws import KEPT_BYTES
from hpc_bnn.train.score.rollout import DEFAULT_HOURS, DRAWN, Rollout
from hpc_bnn.train.score.starts import require_states
from hpc_bnn.train.score.trained import Trained

log = logging.getLogger(__name__)


class ForecastStop(Stop):
    """Listens for the signals that end a forecast early."""

    def _describe_wait(self) -> None:
        log.info("signal %s: ends after this turn", signal.Signals(self._asked).name)


class UnfinishedForecast(Unfinished):
    """The forecasts stopped in good order before their end: run it again."""

    def __init__(self, reason: str, *, done: int, total: int) -> None:
        Exception.__init__(
            self,
            f"{reason}: stopped with {done} of {total} starts finished; run the same command "
            "again: it goes on with the others",
        )


def default_steps(trained: Trained, fields: Fields) -> int:
    """Return the lead times of a forecast that names none: those of the evaluation, or five
    days.
    """
    chosen = trained.settings.evaluation.steps
    return chosen or max(1, DEFAULT_HOURS // fields.step_hours)


def plan_forecast(
    trained: Trained,
    starts: Sequence[int],
    *,
    steps: int,
    members: int,
    is_set: bool = False,
    layout: str = "cf",
) -> ForecastPlan:
    """Return what the files hold of forecasts with ``steps`` lead times and ``members`` members.

    starts: seconds since 1970, increasing. is_set: they have a dimension even where there is one.

    Raises
    ------
    ValueError
        If the run has fewer weight samples than ``members``, or there is no state at a start.
    """
    available = trained.parts.posterior.prediction_samples(members)
    if available < members:
        raise ValueError(
            f"members = {members}: this run has {available} weight samples to forecast with; ask "
            f"for at most {available}"
        )
    fields = trained.parts.source.fields
    if fields is None:
        raise ValueError(
            f"{trained.parts.source.name}: forecasts are rolled out on data sets of fields only; "
            "what follows a series, or what images show: hpc-bnn predict"
        )
    require_states(fields, starts)
    asked = Forecast(
        variables=fields.channels,
        latitude=fields.latitude.numpy(),
        longitude=fields.longitude.numpy(),
        starts_s=tuple(starts),
        lead_hours=tuple(float(fields.step_hours * (lead + 1)) for lead in range(steps)),
        members=members,
        is_set=is_set,
    )
    plan = ForecastPlan(asked, _attributes(trained), layout)
    _ = plan.description  # ValueError for what the layout does not hold
    return plan


def forecast(
    trained: Trained,
    world: World,
    path: Path,
    plan: ForecastPlan,
    *,
    draws: bool = False,
    stop: Stop | None = None,
) -> Drawn | None:
    """Collective over the world: make the forecasts of a plan that are not finished yet; with
    ``draws`` return what can be drawn of a single start.

    path: a file, or a folder with a file of each start (``ForecastSet``). A rank holds the states
    of one member from a few starts at a time and writes them to their places; weights that it drew
    are kept for the next starts, up to ``KEPT_BYTES``. One job at a time may do it: the caller
    holds the lock.

    Raises
    ------
    UnfinishedForecast
        If ``stop`` was due; the same call goes on.
    ValueError
        If a forecast leaves the finite numbers, or files that are there are of another one.
    OSError
        If a file cannot be written, or would replace anything but an earlier forecast; no new
        file then has its final name.
    """
    redraw = trained.settings.forecast.redraw
    total = len(plan.forecast.starts_s)
    kept_bytes = KEPT_BYTES if total > 1 else 0
    rollout = world.all_ranks.together(
        lambda: Rollout(trained.parts, world.device, redraw=redraw, kept_bytes=kept_bytes),
        name="rollout",
    )
    output = ForecastSet(path, plan, rollout.fields.files)
    pending = world.all_ranks.on_first(output.prepare, name="output")
    if len(pending) < total and world.is_first:
        log.info("%s: %d of %d starts are there already", path, total - len(pending), total)
    writer = ForecastWriter(rollout, world, output, pending, draws=draws)
    turns = writer.turns
    _note_stop(stop, pending, total)

    def files_of(begun: Sequence[int], ended: Sequence[int]) -> None:
        rank, ranks = world.grid.world_rank, world.grid.world_size
        output.finish(pending[at] for at in ended if at % ranks == rank)
        output.create(pending[at] for at in begun if at % ranks == rank)

    left = len(pending)
    world.all_ranks.together(lambda: files_of(turns.begun(0), ()), name="forecast files")
    with rollout.evaluating():  # once, not for every state
        for turn in range(len(turns)):
            world.all_ranks.together(lambda: writer.run(turn), name="forecast")  # noqa: B023
            ended, begun = turns.ended(turn), turns.begun(turn + 1)
            reason = "" if stop is None else stop.due()
            begun = [] if reason else begun
            if begun or ended:
                world.all_ranks.together(lambda: files_of(begun, ended), name="forecast files")  # noqa: B023
            left -= len(ended)
            if ended:
                log.info("%d of %d starts are written", total - left, total)
            if reason and left:
                raise UnfinishedForecast(reason, done=total - left, total=total)
    world.all_ranks.on_first(output.finish_file, name="forecast file")
    return writer.drawn(world)


def _note_stop(stop: Stop | None, pending: Sequence[int], total: int) -> None:
    """Collective: end at once where a stop is due before the first turn."""
    reason = "" if stop is None else stop.due()
    if reason and pending:
        raise UnfinishedForecast(reason, done=total - len(pending), total=total)


def _attributes(trained: Trained) -> dict[str, str]:
    """Return what the numbers of a forecast depend on beside starts, members and lead times."""
    source, parts = trained.parts.source, trained.parts
    kept = DRAWN[trained.settings.forecast.redraw]
    parameters = digest([parts.posterior.state_dict(), parts.loss.state_dict()])
    return {
        "title": "Ensemble forecast of a Bayesian neural network",
        "source": f"hpc_bnn {hpc_bnn.__version__}, {trained.settings.model.name} after "
        f"{trained.step} training steps on {source.name}",
        "history": history_line("forecast"),
        "comment": f"each member is one sample of the weights, {kept}",
        "checkpoint": f"step {trained.step}, sha256 {parameters}",
        "config": dump_settings(trained.settings),
    }
