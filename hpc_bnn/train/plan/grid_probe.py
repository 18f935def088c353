"""Times the parts of a step on the ranks of a run, with a model that is thrown away."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from hpc_bnn.train.run.build import Parts, step_settings
from hpc_bnn.train.step.accumulate import Share, accumulate
from hpc_bnn.train.step.parameters import named_parameters

T = TypeVar("T")

REPEATS = 3
PASSES_S = 0.1  # for small networks, whose passes are short
SMALL, LARGE = 2, 1 << 18  # floats of the two timed exchanges


@dataclass(frozen=True)
class Accumulation:
    """Seconds of all passes of a rank, forward and backward, and of the loss between them; the
    exchanges of the loss, and the bytes that the rank receives in them.
    """

    passes_s: float = math.inf
    loss_s: float = 0.0
    exchanges: int = 0
    received_bytes: float = 0.0


TOO_LARGE = Accumulation()


class GridProbe:
    """Times parts of a step on this rank; ``parts`` are used up.

    Passes and loss are timed on the part of a batch that was put on the device last (``hold``).
    """

    def __init__(self, settings: Settings, world: World, parts: Parts) -> None:
        self._settings, self._world, self._parts = settings, world, parts
        self._step = step_settings(settings, parts)
        parts.posterior.to(world.device)
        parts.loss.to(world.device)
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
        try:
            return _within_memory(lambda: self._accumulation(grid), otherwise=TOO_LARGE)
        finally:
            self._clear()

    def _accumulation(self, grid: Grid) -> Accumulation:
        assert self._batch is not None
        world = World(grid, self._world.device)
        passes = FewPasses(self._parts.posterior, world, self._step, real=1)
        zero = torch.zeros((), device=world.device, requires_grad=True)  # ``update`` has the KL
        share = Share(*self._batch, 0, 1.0, lambda: zero)
        runs: list[Accumulation] = []

        def run() -> None:
            axis, all_s, spent_s = CountingAxis(grid.sample_ranks), passes.all_s, passes.spent_s
            began = passes.now()
            accumulate(self._parts.loss, passes, axis, share)
            loss_s = passes.now() - began - (passes.spent_s - spent_s)
            runs.append(Accumulation(passes.all_s - all_s, loss_s, axis.calls, axis.received_bytes))

        self._timed(run, at_least_s=PASSES_S)
        return min(runs[1:], key=lambda each: each.passes_s + each.loss_s)

    def sizes(self) -> tuple[int, int]:
        """Return the elements of all shared parameters, and of all rows of per-sample ones."""
        per_sample = set(self._parts.posterior.per_sample())
        sizes = {name: p.numel() for name, p in self._parts.posterior.named_parameters()}
        rows = sum(size for name, size in sizes.items() if name in per_sample)
        return sum(sizes.values()) - rows, rows

    def update(self) -> float:
        """Return the seconds of KL and optimizer."""
        optimizer = self._parts.optimizer(self._settings.train.lr)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            if isinstance(optimizer, ClosedForm):
                optimizer.begin(1e-12, final=1e-12)
                self._parts.posterior.complexity()
            else:
                torch.autograd.backward(self._parts.posterior.complexity() * 1e-12)
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
        """Collective: return the seconds of the reduction of all gradients."""
        chosen = self._settings.train
        optimizer = self._parts.optimizer(chosen.lr)
        named = named_parameters(self._parts.posterior, self._parts.loss, optimizer)
        reducer = self._world.reducer(
            [(f"auto.{name}", p) for name, p in named.items()],
            passes=1,
            reduction=chosen.reduction,
            compression=chosen.compression,
        )

        def run() -> None:
            self._clear()
            reducer.begin()
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

    def _clear(self) -> None:
        for parameter in (*self._parts.posterior.parameters(), *self._parts.loss.parameters()):
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
