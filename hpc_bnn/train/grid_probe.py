"""Times the parts of a step on the ranks of a run, with a model that is thrown away."""

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hpc_bnn.config import Settings
from hpc_bnn.losses.axis import LocalAxis
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.parallel.comms import together
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.build import Parts
from hpc_bnn.train.counting_axis import CountingAxis
from hpc_bnn.train.parameters import named_parameters
from hpc_bnn.train.passes import Passes
from hpc_bnn.train.phases import Phases

REPEATS = 3
PASSES_S = 0.1  # for small networks, whose passes are short
SMALL, LARGE = 2, 1 << 18  # floats of the two timed exchanges


class GridProbe:
    """Times parts of a step on this rank; ``parts`` are used up."""

    def __init__(self, settings: Settings, world: World, parts: Parts) -> None:
        self._settings, self._world, self._parts = settings, world, parts
        self._joint = isinstance(parts.loss, JointLoss)
        parts.posterior.to(world.device)
        parts.loss.to(world.device)
        source, size = parts.source, settings.train.batch_size
        size = min(size, len(source.train))
        x, y = together(world.world, lambda: source.train.batch(torch.arange(size)), name="a batch")
        x, y = x.to(world.device), y.to(world.device)
        if parts.unroll is not None:
            x, y = parts.unroll.lengthened(x, y, settings.train.rollout[0])
            y = parts.unroll.targets(y)
        if settings.train.precision == "float64":
            x = x.double() if x.is_floating_point() else x
            y = y.double() if y.is_floating_point() else y
        self._x, self._y = x, y
        self._outputs: dict[int, Tensor] = {}

    def one_pass(self, data_ranks: int) -> float:
        """Return the seconds of forward and backward of one pass on a part of the batch, infinite
        where memory is too small for it.
        """
        chosen = self._settings.posterior
        count = self._settings.train.batch_size // data_ranks
        x = self._x[:count]
        alone = World(Grid(1, 1, 0), self._world.device)
        passes = Passes(
            self._parts.posterior,
            alone,
            samples=min(chosen.samples, chosen.samples_per_pass),
            samples_per_pass=chosen.samples_per_pass,
            augment=self._parts.augment,
            views=self._settings.data.augmentation,
            precision=self._settings.train.precision,
            phases=Phases(alone.device),
            unroll=self._parts.unroll,
        )
        part = passes.parts[0]
        twice = self._joint and not chosen.keep_graphs

        def run() -> None:
            if twice:
                with torch.no_grad():
                    passes.run(x, 0, part)
            outputs = passes.run(x, 0, part)
            self._outputs[data_ranks] = outputs.detach()
            if isinstance(self._parts.loss, SeparableLoss):
                y = self._y[: outputs.shape[1]]
                share = separable_share(self._parts.loss, outputs, y, chosen.samples)
            else:
                share = outputs.sum()
            torch.autograd.backward(share)

        try:
            return self._timed(run, at_least_s=PASSES_S)
        except RuntimeError as error:
            if isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in str(error):
                return math.inf
            raise
        finally:
            self._clear()

    def loss(self, sample_ranks: int, data_ranks: int) -> tuple[float, CountingAxis]:
        """Return the seconds of a joint loss on outputs of a grid's shape, and its exchanges."""
        axis = CountingAxis(sample_ranks)
        loss, made = self._parts.loss, self._outputs.get(data_ranks)
        if not isinstance(loss, JointLoss) or made is None:
            return 0.0, axis
        own = self._settings.posterior.samples // sample_ranks
        repeated = made.repeat(math.ceil(own / len(made)), *[1] * (made.dim() - 1))[:own]
        # Not equal to one another, as equal members may be a special case of a score.
        outputs = (repeated + torch.rand_like(repeated) * 1e-3).requires_grad_()
        exact, y = self._settings.loss.exact, self._y[: made.shape[1]]
        if not exact and own < loss.min_samples:
            return math.inf, axis

        def run() -> None:
            outputs.grad = None
            over = axis if exact else LocalAxis()
            torch.autograd.backward(joint_share(loss, outputs, y, over))

        seconds = self._timed(run)
        axis.calls //= REPEATS + 1
        axis.received_bytes /= REPEATS + 1
        self._clear()
        return seconds, axis

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
