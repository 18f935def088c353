"""Times the parts of a step on the ranks of a run, with a model that is thrown away."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from hpc_bnn.bayes.optimizer import ClosedForm
from hpc_bnn.config import Settings
from hpc_bnn.losses.base import JointLoss
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.plan.few_passes import FewPasses
from hpc_bnn.train.run.build import Parts, build, step_settings
from hpc_bnn.train.step.accumulate import Share, accumulate
from hpc_bnn.train.step.parameters import named_parameters

T = TypeVar("T")

REPEATS = 3
PASSES_S = 0.1  # for small networks, whose passes are short
SMALL, LARGE = 2, 1 << 18  # floats of the two timed exchanges


@dataclass(frozen=True)
class Accumulation:
    """Seconds of all passes of a rank, forward and backward, of the loss between them, and of KL
    and optimizer; the exchanges of the loss, and the bytes that the rank receives in them.
    """

    passes_s: float = math.inf
    loss_s: float = 0.0
    update_s: float = 0.0
    exchanges: int = 0
    received_bytes: float = 0.0


TOO_LARGE = Accumulation()


class GridProbe:
    """Times parts of a step on this rank; ``parts`` are used up.

    Passes and loss are timed on the part of a batch that was put on the device last (``hold``). Of
    members a rank makes the rows that it would have in the run, anew for each grid.
    """

    def __init__(self, settings: Settings, world: World, parts: Parts) -> None:
        self._settings, self._world, self._parts = settings, world, parts
        self._step = step_settings(settings, parts)
        self._update_s: float | None = None
        self._has_members = parts.posterior.members is not None
        if not self._has_members:
            self._hold(parts, world.grid)
        self._read: tuple[Tensor, Tensor] | None = None
        self._batch: tuple[Tensor, Tensor] | None = None

    def release(self) -> None:
        """Let go of the batch."""
        self._read = self._batch = None

    def hold(self, data_ranks: int) -> bool:
        """Put on the device what a rank has of a batch among so many data ranks; False: memory is
        too small. Of fewer data ranks first: the others have parts of what was read for them.
        """
        train = self._parts.source.train
        size = min(self._settings.train.batch_size // data_ranks, len(train))
        self._batch = None

        def put() -> bool:
            if self._read is None or len(self._read[0]) < size:
                self._read = None
                self._read = train.batch(torch.arange(size))
            x, y = (tensor[:size] for tensor in self._read)
            if self._parts.unroll is not None:
                steps = self._settings.train.rollout[0]
                x, y = self._parts.unroll.lengthened(x, y, steps)
            self._batch = self._step.place(x, y, self._world.device)
            return True

        return _within_memory(put, otherwise=False)

    def accumulation(self, grid: Grid) -> Accumulation:
        """Return what passes and loss of a rank of ``grid`` take on the batch that is held;
        infinitely many seconds where memory is too small, or the loss needs more own samples.
        """
        loss, own = self._parts.loss, len(grid.own_samples(self._step.samples))
        if isinstance(loss, JointLoss) and not self._step.exact and own < loss.min_samples:
            return TOO_LARGE
        return _within_memory(lambda: self._accumulation(grid), otherwise=TOO_LARGE)

    def _accumulation(self, grid: Grid) -> Accumulation:
        assert self._batch is not None
        world, parts = World(grid, self._world.device), self._parts
        if self._has_members:
            parts = build(self._settings, parts.source)
            self._hold(parts, grid)
        passes = FewPasses(parts.posterior, world, self._step, real=1)
        zero = torch.zeros((), device=world.device, requires_grad=True)  # ``update`` has the KL
        share = Share(*self._batch, 0, 1.0, lambda: zero)
        runs: list[Accumulation] = []

        def run() -> None:
            axis, all_s, spent_s = CountingAxis(grid.sample_ranks), passes.all_s, passes.spent_s
            began = passes.now()
            accumulate(parts.loss, passes, axis, share)
            loss_s = passes.now() - began - (passes.spent_s - spent_s)
            counts = axis.calls, axis.received_bytes
            runs.append(Accumulation(passes.all_s - all_s, loss_s, 0.0, *counts))

        try:
            self._timed(run, at_least_s=PASSES_S)
            if self._update_s is None or self._has_members:  # else the same on every grid
                self._update_s = self._update(parts)
        finally:
            _clear(parts)
        fastest = min(runs[1:], key=lambda each: each.passes_s + each.loss_s)
        return replace(fastest, update_s=self._update_s)

    def _hold(self, parts: Parts, grid: Grid) -> None:
        """Put on the device what a rank of a grid has of ``parts``, as a step does."""
        parts.posterior.hold(grid.own_samples(self._step.samples))
        parts.posterior.to(self._world.device)
        parts.loss.to(self._world.device)
        parts.posterior.initialise()

    def sizes(self) -> tuple[int, int]:
        """Return the elements of all shared parameters, and of all rows of per-sample ones."""
        posterior = self._parts.posterior
        per_sample, named = set(posterior.per_sample()), dict(posterior.named_parameters())
        shared = sum(p.numel() for name, p in named.items() if name not in per_sample)
        row = sum(p[0].numel() for name, p in named.items() if name in per_sample)
        return shared, row * self._step.samples

    def _update(self, parts: Parts) -> float:
        """Return the seconds of KL and optimizer."""
        optimizer = parts.optimizer(self._settings.train.lr)
        parts.posterior.begin(optimizer, num_examples=self._step.num_examples)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            if isinstance(optimizer, ClosedForm):
                optimizer.begin(1e-12, final=1e-12)
                parts.posterior.complexity()
            else:
                torch.autograd.backward(parts.posterior.complexity() * 1e-12)
            optimizer.step()

        return self._timed(run)

    def exchanges(self) -> tuple[float, float]:
        """Collective: return the seconds of an exchange along the sample axis a doubling of ranks,
        and a byte received.
        """
        axis, size = self._world.sample_axis, self._world.grid.sample_ranks
        if size == 1 or not isinstance(self._parts.loss, JointLoss):
            return 0.0, 0.0
        seconds = {}
        for count in (SMALL, LARGE):
            x = torch.zeros(count, device=self._world.device)
            run = partial(axis.all_reduce, x, reduction="sum", name="auto")
            seconds[count] = self._timed(run)
        received = 4 * LARGE * 2 * (size - 1) / size
        rate = max(0.0, seconds[LARGE] - seconds[SMALL]) / received
        return seconds[SMALL] / math.log2(size), rate

    def reduction(self) -> float:
        """Collective: return the seconds of the reduction of the gradients of a rank, of rows those
        of the grid that was started.
        """
        chosen = self._settings.train
        if self._has_members:
            self._hold(self._parts, self._world.grid)
        optimizer = self._parts.optimizer(chosen.lr)
        named = named_parameters(self._parts.posterior, self._parts.loss, optimizer)
        reducer = self._world.reducer(
            [(f"auto.{name}", p) for name, p in named.items()],
            reduction=chosen.reduction,
            compression=chosen.compression,
        )

        def run() -> None:
            _clear(self._parts)
            reducer.begin()
            reducer.at_last_pass()
            total = torch.zeros((), device=self._world.device)
            for parameter in named.values():
                if parameter.requires_grad:
                    total = total + parameter.flatten()[0]
            torch.autograd.backward(total)
            reducer.wait()

        return self._timed(run)

    def _timed(self, run: Callable[[], object], *, at_least_s: float = 0.0) -> float:
        """Return the least seconds of a few runs, after one that allocates and connects: what else
        the machine does only ever adds.

        at_least_s: go on for so long; not for what is collective.
        """
        times: list[float] = []
        while len(times) <= REPEATS or sum(times[1:]) < at_least_s:
            began = time.perf_counter()
            run()
            if self._world.device.type == "cuda":
                torch.cuda.synchronize(self._world.device)
            times.append(time.perf_counter() - began)
        return min(times[1:])


def _clear(parts: Parts) -> None:
    for parameter in (*parts.posterior.parameters(), *parts.loss.parameters()):
        parameter.grad = None


def _within_memory(action: Callable[[], T], *, otherwise: T) -> T:
    """Return what ``action`` does, ``otherwise`` where memory is too small for it."""
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        too_small = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        if not too_small and "allocate memory" not in str(error):  # torch has no class for the CPU
            raise
        return otherwise
