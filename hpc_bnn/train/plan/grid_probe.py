"""Times the parts of a step on the ranks of a run, with a model that is thrown away."""

import math
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.step.parameters import named_parameters
from hpc_bnn.train.step.passes import Passes, cut
from hpc_bnn.train.step.phases import Phases

T = TypeVar("T")

REPEATS = 3
PASSES_S = 0.1  # for small networks, whose passes are short
SMALL, LARGE = 2, 1 << 18  # floats of the two timed exchanges


class GridProbe:
    """Times parts of a step on this rank; ``parts`` are used up.

    Passes and loss are timed on the part of a batch that was put on the device last (``hold``).
    """

    def __init__(self, settings: Settings, world: World, parts: Parts) -> None:
        self._settings, self._world, self._parts = settings, world, parts
        self._joint = isinstance(parts.loss, JointLoss)
        parts.posterior.to(world.device)
        parts.loss.to(world.device)
        self._read: tuple[Tensor, Tensor] | None = None
        self._outputs: Tensor | None = None
        self._x = self._y = torch.empty(0)

    def release(self) -> None:
        """Let go of the batch."""
        self._read, self._outputs = None, None
        self._x = self._y = torch.empty(0)

    def hold(self, data_ranks: int) -> bool:
        """Put on the device what a rank has of a batch among so many data ranks; False: memory is
        too small. Of fewer data ranks first: the others have parts of what was read for them.
        """
        train = self._parts.source.train
        size = min(self._settings.train.batch_size // data_ranks, len(train))
        self._outputs = None
        self._x = self._y = torch.empty(0)

        def put() -> bool:
            if self._read is None or len(self._read[0]) < size:
                self._read = None
                self._read = train.batch(torch.arange(size))
            x, y = (tensor[:size].to(self._world.device) for tensor in self._read)
            unroll = self._parts.unroll
            if unroll is not None:
                x, y = unroll.lengthened(x, y, self._settings.train.rollout[0])
                y = unroll.targets(y)
            if self._settings.train.precision == "float64":
                x = x.double() if x.is_floating_point() else x
                y = y.double() if y.is_floating_point() else y
            self._x, self._y = x, y
            return True

        return _within_memory(put, otherwise=False)

    def passes(self, samples: int) -> float:
        """Return the seconds of forward and backward of all passes over so many own samples on the
        batch that is held, infinite where memory is too small for one.
        """
        chosen = self._settings.posterior
        parts = Counter(map(len, cut(range(samples), chosen.samples_per_pass)))
        # As hb.Step: outputs of several passes are joined before any goes backward.
        again = self._joint and not chosen.keep_graphs and parts.total() > 1
        try:
            return _within_memory(
                lambda: sum(count * self._pass(size, again) for size, count in parts.items()),
                otherwise=math.inf,
            )
        finally:
            self._clear()

    def _pass(self, samples: int, again: bool) -> float:
        """Return the seconds of one pass, with ``again`` after one without gradients."""
        chosen = self._settings.posterior
        alone = World(Grid(1, 1, 0), self._world.device)
        passes = Passes(
            self._parts.posterior,
            alone,
            samples=samples,
            samples_per_pass=samples,
            augment=self._parts.augment,
            views=self._settings.data.augmentation,
            precision=self._settings.train.precision,
            phases=Phases(alone.device),
            unroll=self._parts.unroll,
        )
        part = passes.parts[0]

        def run() -> None:
            if again:
                with torch.no_grad():
                    passes.run(self._x, 0, part)
            one = passes.run(self._x, 0, part)
            outputs = one.outputs
            self._outputs = outputs.detach()
            if isinstance(self._parts.loss, SeparableLoss):
                share = separable_share(self._parts.loss, outputs, self._y, chosen.samples)
            else:
                share = outputs.sum()
            one.backward(share)

        return self._timed(run, at_least_s=PASSES_S)

    def loss(self, sample_ranks: int) -> tuple[float, CountingAxis]:
        """Return the seconds of a joint loss on outputs of a grid's shape, infinite where memory is
        too small for them, and its exchanges.
        """
        axis = CountingAxis(sample_ranks)
        loss, made = self._parts.loss, self._outputs
        own = self._settings.posterior.samples // sample_ranks
        if not isinstance(loss, JointLoss) or made is None:
            return 0.0, axis
        if not self._settings.loss.exact and own < loss.min_samples:
            return math.inf, axis
        try:
            seconds = _within_memory(
                lambda: self._joint_loss(loss, made, own, axis), otherwise=math.inf
            )
        finally:
            self._clear()
        axis.calls //= REPEATS + 1
        axis.received_bytes /= REPEATS + 1
        return seconds, axis

    def _joint_loss(self, loss: JointLoss, made: Tensor, own: int, axis: CountingAxis) -> float:
        repeated = made.repeat(math.ceil(own / len(made)), *[1] * (made.dim() - 1))[:own]
        # Not equal to one another, as equal members may be a special case of a score.
        outputs = (repeated + torch.rand_like(repeated) * 1e-3).requires_grad_()
        over = axis if self._settings.loss.exact else ALONE

        def run() -> None:
            outputs.grad = None
            torch.autograd.backward(joint_share(loss, outputs, self._y, over))

        return self._timed(run)

    def update(self) -> float:
        """Return the seconds of KL and optimizer."""
        optimizer = self._parts.optimizer(self._settings.train.lr)

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(self._parts.posterior.kl() * 1e-12)
            optimizer.step()

        return self._timed(run)

    def exchanges(self) -> tuple[float, float]:
        """Collective: return the seconds of an exchange along the sample axis a doubling of ranks,
        and a byte received.
        """
        axis, size = self._world.sample_axis, self._world.grid.sample_ranks
        if size == 1 or not self._joint:
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
