"""What a rank does of a set of forecasts: it steps members forward and writes every state.

It holds the states of one member from the starts of one batch; what is drawn of a forecast is added
up as it passes.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hpc_bnn.data.source import Fields
from hpc_bnn.fields.forecast_file import ForecastFile
from hpc_bnn.fields.forecast_set import ForecastSet
from hpc_bnn.parallel.world import World
from hpc_bnn.train.score.dealt_starts import deal, gives_same_bits
from hpc_bnn.train.score.rollout import Rollout

MOST_MAPS = 4  # lead times that are drawn


@dataclass(frozen=True, eq=False)
class Drawn:
    """What is to be drawn of a forecast: ``mean`` and ``spread`` (L, C, H, W) at some leads."""

    leads: tuple[int, ...]
    mean: Tensor
    spread: Tensor | None


class ForecastWriter:
    """Computes the tasks of this rank and writes them; made by all ranks together."""

    def __init__(
        self,
        rollout: Rollout,
        world: World,
        output: ForecastSet,
        pending: Sequence[int],
        *,
        draws: bool,
    ) -> None:
        self._rank = world.grid.world_rank
        self._output, self._pending = output, pending
        self._rollout, fields = rollout, rollout.fields
        self._fields = fields
        self._present = None if fields.present is None else fields.present.numpy()
        forecast = output.plan.forecast
        self._steps, self._members = len(forecast.lead_hours), forecast.members
        self._starts = torch.tensor(forecast.starts_s)[list(pending)]
        self._read: tuple[range, Tensor] | None = None
        shape = len(fields.channels), len(fields.latitude), len(fields.longitude)
        self.turns = deal(
            len(pending),
            self._members,
            world.all_ranks,
            state_bytes=4 * fields.history * math.prod(shape),
            is_neutral=self._is_neutral,
        )
        self._leads = _spread_out(self._steps) if draws else ()
        self._sums = torch.zeros(2, len(self._leads), *shape, dtype=torch.float64)

    @torch.no_grad()  # not inference_mode: a network may differentiate in its forward pass
    def run(self, turn: int) -> None:
        """Compute and write what this rank has to do in a turn."""
        task = self.turns.task(turn, self._rank)
        if task is None:
            return
        batch, member = task
        starts, history = self._starts[batch.start : batch.stop], self._history(batch)
        history = self._rollout.first(history, starts, member)
        networks = self._rollout.networks(member, starts)
        at = [self._output.file(self._pending[i]) for i in batch]
        with contextlib.ExitStack() as stack:
            opened: dict[Path, ForecastFile] = {}
            for path, plan, _ in at:
                if path not in opened:
                    file = ForecastFile(path, plan, present=self._present)
                    opened[path] = stack.enter_context(file)
            for lead in range(self._steps):
                history = self._rollout.advance(history, starts, lead, member, networks(lead))
                states = self._fields.physical(history[:, -1]).to(torch.float32).cpu()
                for (path, _, place), state in zip(at, states.numpy(), strict=True):
                    opened[path].write(member, lead, state, start=place)
                self._note(lead, states[0])

    def drawn(self, world: World) -> Drawn | None:
        """Collective: return what can be drawn; None: nothing, or all was done before."""
        if not self._leads or not self._pending:
            return None
        members = self._members
        total, squares = world.all_ranks.all_reduce(self._sums, reduction="sum", name="maps")
        mean = total / members
        variance = (squares / members - mean.square()).clamp(min=0) * members / max(1, members - 1)
        origin = self._fields.physical(self._history(range(1))[0, -1]).cpu()
        return Drawn(self._leads, origin + mean, variance.sqrt() if members > 1 else None)

    def _note(self, lead: int, state: Tensor) -> None:
        if lead not in self._leads:
            return
        # Of what differs from the start: sums of squares lose digits otherwise.
        change = state.double() - self._fields.physical(self._history(range(1))[0, -1]).cpu()
        self._sums[:, self._leads.index(lead)] += torch.stack([change, change.square()])

    def _history(self, batch: range) -> Tensor:
        """Read the states of a batch of starts, kept for the next member."""
        if self._read is None or self._read[0] != batch:
            starts = self._starts[batch.start : batch.stop]
            self._read = batch, self._rollout.history(starts)
        return self._read[1]

    @torch.no_grad()  # not inference_mode: a network may differentiate in its forward pass
    def _is_neutral(self, sizes: Sequence[int]) -> bool:
        def step(states: Tensor, which: slice) -> Tensor:
            starts = self._starts[which]
            first = self._rollout.first(states, starts, 0)
            network = self._rollout.networks(0, starts)(0)
            return self._rollout.advance(first, starts, 0, 0, network)

        return gives_same_bits(step, self._history(range(max(sizes))), sizes)


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
