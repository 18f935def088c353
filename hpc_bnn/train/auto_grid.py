"""``grid.mode: auto``: measure, before a run, how its step would fare on each grid.

    T(S, D) = K/S / s * pass(B/D) + loss(K/S, B/D) + exchange(S) + update + reduction

A pass (forward and backward of s = ``posterior.samples_per_pass`` samples) is timed for each D on
real examples, by all ranks at once, so that they share memory and cores as in the run; ``update``
is KL and optimizer, ``reduction`` that of the gradients, not hidden; both are the same on every
grid. A joint loss is computed on outputs of the right shape, its exchanges are counted and priced
by two timed ones. What is measured with is thrown away: parameters, optimizer and noise of the run
are made afterwards, as without, and since the answer does not depend on the grid, neither does it
depend on the choice.
"""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.data import Source
from hpc_bnn.losses.axis import LocalAxis, Reduction
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.parallel.comms import Channel, on_first, together
from hpc_bnn.parallel.grid import Grid, fitting_grids
from hpc_bnn.parallel.guards import agree
from hpc_bnn.parallel.ranks import ChannelRanks
from hpc_bnn.parallel.world import World, split
from hpc_bnn.train.build import Parts, build, read_source
from hpc_bnn.train.folder import RunFolder
from hpc_bnn.train.parameters import named_parameters
from hpc_bnn.train.passes import Passes
from hpc_bnn.train.phases import Phases

log = logging.getLogger(__name__)

REPEATS = 3
PASSES_S = 0.1  # for small networks, whose passes are short
SMALL, LARGE = 2, 1 << 18  # floats of the two timed exchanges


@dataclass(frozen=True)
class Candidate:
    """A grid that shares K and B, and the predicted seconds of its step and their parts."""

    sample_ranks: int
    data_ranks: int
    step_time_s: float = math.nan
    passes_s: float = math.nan
    loss_s: float = math.nan
    exchange_s: float = math.nan
    update_s: float = math.nan
    reduction_s: float = math.nan


@dataclass(frozen=True)
class AutoGrid:
    """What was chosen and why; the data set, which need not be read again."""

    sample_ranks: int
    candidates: tuple[Candidate, ...]
    seconds: float
    source: Source | None = None

    def record(self) -> dict[str, Any]:
        """Return what ``summary.json`` tells; a grid that was the only one was not measured."""
        return {
            "candidates": [asdict(candidate) for candidate in self.candidates],
            "seconds": self.seconds,
        }


class CountingAxis:
    """A sample axis of ``size`` ranks that moves nothing and counts what it would.

    Attributes
    ----------
    calls, received_bytes
        Exchanges, and the bytes that each rank would receive in them.
    """

    rank = 0

    def __init__(self, size: int) -> None:
        self.size, self.calls, self.received_bytes = size, 0, 0.0

    def all_reduce(self, x: Tensor, *, reduction: Reduction, name: str) -> Tensor:
        self._count(2 * (self.size - 1) / self.size, x)
        return x.clone()

    def all_gather(self, x: Tensor, *, name: str) -> Tensor:
        self._count(self.size - 1, x)
        return torch.cat([x] * self.size)

    def all_to_all(self, x: Tensor, *, name: str) -> Tensor:
        self._count((self.size - 1) / self.size, x)
        return x.clone()

    def _count(self, share: float, x: Tensor) -> None:
        if self.size > 1:
            self.calls += 1
            self.received_bytes += share * x.numel() * x.element_size()


def start_auto(
    settings: Settings, channel: Channel, folder: RunFolder, *, resume: bool
) -> tuple[World, AutoGrid]:
    """Collective: measure the grids of this job and start the world on the fastest.

    Raises
    ------
    ValueError
        If no grid shares K and B, or the folder holds another run.
    """
    samples, batch_size = settings.posterior.samples, settings.train.batch_size
    grids = fitting_grids(channel.size, samples=samples, batch_size=batch_size)
    agree(channel, {"settings": dump_settings(settings)}, name="settings")
    on_first(channel, lambda: folder.check(settings, resume=resume), name="run folder")
    # Most samples apart first: where that is what is chosen, Horovod is not started twice.
    world = _start(settings, channel, grids[-1][0])
    if len(grids) == 1:
        only = AutoGrid(grids[0][0], (Candidate(*grids[0]),), 0.0)
        log.info("grid.mode = auto: %d x %d is the only grid that shares K and B", *grids[0])
        return world, only
    source = read_source(settings, ChannelRanks(world.world))
    parts = together(world.world, lambda: build(settings, source), name="building the model")
    began = time.perf_counter()
    found = _measured(settings, world, parts, grids)
    del parts
    _forget(world.device)
    best = min(found, key=lambda candidate: candidate.step_time_s)
    chosen = channel.broadcast(best.sample_ranks, name="grid")
    if not math.isfinite(best.step_time_s):
        raise RuntimeError(
            "grid.mode = auto: not enough memory: can't allocate memory for one sample on any grid"
        )
    if chosen != world.grid.sample_ranks:
        world.stop()
        world = _start(settings, channel, chosen)
    choice = AutoGrid(chosen, tuple(found), time.perf_counter() - began, source)
    for candidate in found:
        log.info(
            "grid.mode = auto: %d x %d: predicted %.4g ms a step%s",
            candidate.sample_ranks,
            candidate.data_ranks,
            candidate.step_time_s * 1e3,
            ", chosen" if candidate.sample_ranks == chosen else "",
        )
    return world, choice


def _start(settings: Settings, channel: Channel, sample_ranks: int) -> World:
    return split(
        channel,
        sample_ranks=sample_ranks,
        device=settings.train.device,
        stall_timeout_s=settings.train.stall_timeout,
    )


def _measured(
    settings: Settings, world: World, parts: Parts, grids: list[tuple[int, int]]
) -> list[Candidate]:
    """Collective: return the candidates with the times of the slowest rank."""
    probe = _Probe(settings, world, parts)
    passes = {
        data_ranks: together(world.world, partial(probe.one_pass, data_ranks), name="pass")
        for _, data_ranks in grids
    }
    losses = [together(world.world, partial(probe.loss, *grid), name="loss") for grid in grids]
    update = together(world.world, probe.update, name="update")
    latency, rate = probe.exchanges()
    reduction = probe.reduction()  # last: its hooks stay on the parameters
    rows = []
    for (s, d), (loss, axis) in zip(grids, losses, strict=True):
        own = settings.posterior.samples // s
        count = own / min(own, settings.posterior.samples_per_pass)
        exchange = axis.calls * latency * math.log2(max(s, 1)) + axis.received_bytes * rate
        rows.append([count * passes[d], loss, exchange, update, reduction])
    slowest = world.world.all_reduce(
        torch.tensor(rows, dtype=torch.float64), reduction="max", name="candidates"
    )
    return [
        Candidate(s, d, float(row.sum()), *row.tolist())
        for (s, d), row in zip(grids, slowest, strict=True)
    ]


class _Probe:
    """Times parts of a step on this rank, with a model of its own."""

    def __init__(self, settings: Settings, world: World, parts: Parts) -> None:
        self._settings, self._world, self._parts = settings, world, parts
        self._joint = isinstance(parts.loss, JointLoss)
        parts.posterior.to(world.device)
        parts.loss.to(world.device)
        source, size = parts.source, settings.train.batch_size
        size = min(size, len(source.train))
        x, y = together(world.world, lambda: source.train.batch(torch.arange(size)), name="a batch")
        x, y = x.to(world.device), y.to(world.device)
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
        x, y = self._x[:count], self._y[:count]
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


def _forget(device: torch.device) -> None:
    """Give the memory of the measurement back."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
