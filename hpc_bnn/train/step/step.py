"""One training step on any grid of ranks: draw, forward, loss, backward, reduce, update.

A rank loops over its own weight samples, forward and backward one at a time, so peak memory is that
of one network whatever K is; of small networks some megabytes of weights are drawn at once
(``draw``). A joint loss first runs every sample without a graph, takes the loss's
gradient to the outputs, and runs the samples again to pull it back: keyed noise makes the second
run the same as the first. ``keep_graphs`` saves the second run where memory allows.
"""

import contextlib
import logging
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs, count_examples, tensors_of
from hpc_bnn.bayes.optimizer import ClosedForm
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import JointLoss, Loss, require_loss
from hpc_bnn.parallel import guards
from hpc_bnn.parallel.world import World
from hpc_bnn.spelling import nearest
from hpc_bnn.train.step.accumulate import Share
from hpc_bnn.train.step.capture import Capture
from hpc_bnn.train.step.checks import (
    check_batch,
    check_finite_inputs,
    check_optimizer,
    check_sizes,
    refuse_divergence,
)
from hpc_bnn.train.step.ema import EMA
from hpc_bnn.train.step.gradients import Gradients
from hpc_bnn.train.step.parameters import (
    all_tensors,
    buffers_of,
    by_kind,
    parameters_of,
    settings_of,
)
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.phases import Phases, TimedExchanges
from hpc_bnn.train.step.settings import StepSettings
from hpc_bnn.train.step.step_report import Report

log = logging.getLogger(__name__)

_MADE_OF = ("posterior", "loss", "optimizer", "world", "settings")


class Step:
    """A training step: ``loss = step(x, y)`` with this rank's part of the batch.

    Parameters
    ----------
    posterior
        The distribution of the weights; its parameters are those of the optimizer. They may be
        frozen, thawed and added between steps, on all ranks alike.
    loss
        One of ``hb.losses`` or a subclass of ``SeparableLoss`` or ``JointLoss``.
    settings
        Or its fields as keywords: ``samples`` and ``num_examples``, which have no default, and the
        others of ``StepSettings``.

    Attributes
    ----------
    step
        Steps made so far, which keys the noise; ``hb.load`` sets it to go on with an earlier run.
    posterior, loss, optimizer, world
        What it was made of; another optimizer, say, takes another step.
    report
        What the last step did; None before the first.
    ema
        The moving average of what is trained, with the option ``ema``; None without.

    Raises
    ------
    ValueError
        If samples, batch or loss do not fit the grid or each other; from a step, if the loss is not
        one finite number an example because of what it is or of a target.
    TypeError
        If the loss is of no kind that a step knows, a keyword is none of the settings, or there are
        both settings and keywords.
    ImpureError
        From the first step, on every rank, if ``check`` finds that the network is not pure.
    FloatingPointError
        From a step whose loss or gradient is not finite; parameters are left as before the step.
    GuardError
        From a step at which ranks violate the contract.
    """

    def __init__(
        self,
        posterior: Posterior,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        world: World,
        settings: StepSettings | None = None,
        **options: Any,
    ) -> None:
        require_loss(loss)
        self.settings = settings = _settings(settings, options)
        self.step = 0
        self.report: Report | None = None
        self.posterior, self.loss = posterior, loss
        self.optimizer, self.world = optimizer, world
        self._unchecked = settings.check
        self._phases = Phases(world.device)
        self._axis = TimedExchanges(world.sample_axis, self._phases)
        self._passes = Passes(posterior, world, settings, self._phases)
        check_sizes(posterior, loss, settings, self._passes.parts)
        check_optimizer(optimizer)
        posterior.begin(optimizer, num_examples=settings.num_examples)
        posterior.hold(world.grid.own_samples(settings.samples))
        posterior.to(world.device)
        loss.to(world.device)
        draws = len(self._passes.draws)
        self._gradients = Gradients(posterior, loss, optimizer, world, settings, draws=draws)
        self._capture = Capture(
            *(posterior, loss, self._passes, self._gradients, self._axis),
            mode=settings.capture,
            device=world.device,
        )
        parts = settings_of(posterior, loss, self._gradients.named)
        agreed = {**settings.of_all_ranks(), **parts}
        guards.agree(world.all_ranks, agreed, name="before the first step")
        # Also what is not trained: no reduction would ever make it equal.
        shared, _ = by_kind(posterior, all_tensors(posterior, loss))
        world.broadcast_parameters(shared)
        posterior.initialise()
        _, rows = by_kind(posterior, all_tensors(posterior, loss))
        world.broadcast_parameters(rows, axis="data")
        self.ema = EMA(self._gradients.named, settings.ema) if settings.ema else None

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse another part than the step was made of: guards, sums and graphs know that one."""
        if name in _MADE_OF and name in vars(self):
            raise AttributeError(
                f"step.{name}: it stays what the step was made of; make another hb.Step over the "
                f"same posterior, and set its step to {self.step}"
            )
        super().__setattr__(name, value)

    def __call__(self, x: Inputs, y: Tensor) -> Tensor:
        """Collective: train on this rank's examples and return the objective over the whole grid, a
        scalar.

        ``x`` is what the network takes: a tensor (B, ...), or a tuple, list or dict of such, as the
        data set gives it. ``y`` is what the loss takes, a tensor (B, ...).
        """
        check_batch(x, y)
        self._phases.begin()
        x, y = self.settings.place(x, y, self.world.device)
        factor = self.settings.kl_factor(self.step)
        closed = isinstance(self.optimizer, ClosedForm)
        if isinstance(self.optimizer, ClosedForm):
            self.optimizer.begin(factor, final=self.settings.final_kl_factor)
        if self.settings.guards_at(self.step):
            self._guard(x, y)
        if self._unchecked:
            self._check_network(x)
        self._gradients.begin()
        self._phases.enter("forward")
        terms: list[Tensor] = []

        def complexity() -> Tensor | None:
            with torch.set_grad_enabled(not closed):
                term = self.posterior.complexity()
            terms.append(term.detach())
            return None if closed else factor / self.world.grid.sample_ranks * term

        scale, at_last_pass = self._gradients.scale, self._gradients.at_last_pass
        share = Share(x, y, self.step, scale, complexity, at_last_pass)
        data_share = self._capture.accumulate(share)
        self._phases.enter("communication")
        self._gradients.reduce(self.step, self._equal_on_all_ranks(count_examples(x)))
        self._phases.enter("optimizer")
        norms = self._gradients.norms()
        data_loss, kl, norm, finite = self._figures([data_share, *terms, *norms.figures()])
        loss = data_loss + factor * kl
        if not math.isfinite(loss):
            self.world.all_ranks.together(lambda: self._check_numbers(x, y), name="batch")
        if not (math.isfinite(loss) and finite):
            diverged = self._gradients.diverged(norms)
            refuse_divergence(self.step, loss, norm, self._gradients.named, diverged)
        if self.settings.clip_norm is not None:
            self._gradients.clip(self.settings.clip_norm, norms)
        self.optimizer.step()
        self.posterior.collect(self.step)
        if self.ema is not None:
            self.ema.update(self._gradients.named)
        self.report = Report(self.step, loss, data_loss, kl, norm, self._phases.end())
        self.step += 1
        return torch.tensor(loss, dtype=torch.float64)

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the parameters are their moving averages; without the option
        ``ema`` what they are.
        """
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def _check_numbers(self, x: Inputs, y: Tensor) -> None:
        """Raise ValueError where a loss that is not finite follows from the batch."""
        try:
            check_finite_inputs(x)
            self.loss.check_target(y)
        except ValueError as error:
            ranks = self.world.all_ranks
            where = f"world rank {ranks.rank}, " if ranks.size > 1 else ""
            raise ValueError(f"{where}step {self.step}: {error}") from error

    def _check_network(self, x: Inputs) -> None:
        """Collective over the world: prove that the network is pure, or raise on every rank."""
        unused = self.world.all_ranks.together(
            lambda: self._passes.check(x, self.step), name="check of the network"
        )
        self._unchecked = False
        if unused and self.world.is_first:
            log.warning(
                "%d of the random weights reach no output and will only follow the prior: %s",
                len(unused),
                ", ".join(unused),
            )

    def _equal_on_all_ranks(self, examples: int) -> list[bool]:
        """Collective: return which digests of the gradients are the same on all ranks, having
        checked that these hold equally many examples. Nothing of it lies on the device.
        """
        counts = [examples, *self._gradients.digests()]
        _, (count, *_), (equal, *same) = guards.total_of(
            self.world.all_ranks, [], counts, name="batch sizes and gradients"
        )
        if not equal:
            ranks = self.world.grid.world_size
            raise guards.GuardError(
                f"step {self.step}: the ranks hold batches of different sizes (this one "
                f"{examples}, together {count} on {ranks} ranks); every rank must get equally many "
                "examples"
            )
        return same

    def _figures(self, mine: Sequence[Tensor]) -> tuple[float, float, float, bool]:
        """Collective: return mean_b l_b over the grid, the complexity term and the norm of the
        gradient of all members, and whether the norm is finite on every rank.

        mine: this rank's share of the loss and the term, and ``Norms.figures``. They are all that
        the host asks the device for in a step, once the gradients are reduced.
        """
        grid = self.world.grid
        asked = torch.stack([each.to(self.world.device, torch.float64) for each in mine]).tolist()
        loss, kl, shared, rows = asked
        bad = float(not (math.isfinite(shared) and math.isfinite(rows)))
        with self._phases.within("communication"):
            (loss, kl, rows, bad), _, _ = guards.total_of(
                self.world.all_ranks, [loss, kl, rows, bad], [], name="loss"
            )
        if isinstance(self.loss, JointLoss) and self.settings.exact:
            loss /= grid.sample_ranks  # every sample rank holds the whole value
        members = rows / grid.data_ranks / (self.posterior.members or 1)
        norm = math.hypot(shared, math.sqrt(members))
        return loss / grid.data_ranks, kl / grid.world_size, norm, not bad

    def _guard(self, x: Inputs, y: Tensor) -> None:
        # What is not trained, too: one rank alone may change it. 20 ns an element on a CPU.
        parameters, rows = by_kind(self.posterior, parameters_of(self.posterior, self.loss))
        buffers, more = by_kind(self.posterior, buffers_of(self.posterior, self.loss))
        guards.check(
            self.world,
            step=self.step,
            parameters=parameters,
            buffers=buffers,
            per_sample={**rows, **more},
            batch=[*tensors_of(x), y],
            draw=self._passes.first_draw(self.step),
        )


def _settings(settings: StepSettings | None, options: dict[str, Any]) -> StepSettings:
    """Return the settings that are given as one record or as keywords."""
    known = [field.name for field in fields(StepSettings)]
    for key in options.keys() - known:
        raise TypeError(f"hb.Step: unknown keyword {key}{nearest(key, known)}")
    if settings is None:
        return StepSettings(**options)
    if not isinstance(settings, StepSettings):
        kind = type(settings).__name__
        raise TypeError(f"hb.Step: settings is of type {kind}; give samples=... as a keyword")
    if options:
        raise TypeError(f"hb.Step: takes settings or keywords, not both ({', '.join(options)})")
    return settings
