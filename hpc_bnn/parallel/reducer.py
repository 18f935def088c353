"""Gradients become sums over the sample axis and means over the data axis while backward runs; of
per-sample parameters, means over the data axis only.

A gradient is what all ranks together have: where some ranks have none of a parameter, theirs counts
as zero; where no rank has one, the parameter is left without, so that the optimizer skips it as
torch does on one rank.

Gradients travel in buckets. A bucket starts when its last gradient is ready and those before it
have started, so that the ranks agree on the order whatever order their gradients come in. In the
first step all start in ``wait``, before which the ranks have agreed on what they train; from the
second on buckets follow the order in which gradients came on world rank 0.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
from torch import nn

from hpc_bnn.parallel.bucket import fill_buckets, kind_of
from hpc_bnn.parallel.engine import Axis, Compression, Engine
from hpc_bnn.parallel.watchdog import Watchdog

Named = Sequence[tuple[str, nn.Parameter]]


class Reducer(Protocol):
    """Reduces gradients while backward still runs."""

    def begin(self) -> None:
        """Start a step."""

    def at_last_pass(self) -> None:
        """Say that a gradient that comes from now on to ``wait`` is the whole one of this rank: it
        is reduced when it is there.
        """

    def wait(self, unused: Collection[str] = ()) -> None:
        """Collective: return when every gradient is reduced. The tensors are those in
        ``parameter.grad``.

        ``unused`` are the names of parameters that no rank has a gradient for: they are left
        without one. A parameter that some ranks have none for counts as zero there.
        """

    def close(self) -> None:
        """Leave the parameters alone from now on."""


class NoReducer:
    """Nothing to reduce on one rank."""

    def begin(self) -> None:
        return

    def at_last_pass(self) -> None:
        return

    def wait(self, unused: Collection[str] = ()) -> None:
        return

    def close(self) -> None:
        return


class RankReducer:
    """Starts the reduction of gradients in the last of their backward passes; later stages follow
    in ``wait``.

    Not Horovod's DistributedOptimizer or torch's DistributedDataParallel: the first fills in zeros
    where no rank has a gradient, and an optimizer then moves what nothing has asked to move; its
    hooks stay for ever, so that two steps over the same parameters would both reduce. The second
    takes one mean over all ranks and one forward pass a step.

    Parameters
    ----------
    named
        The parameters whose gradients are reduced, in the same order on every rank.
    axes
        The axes of more than one rank over which a shared parameter is summed, one after the other.
    rows
        The names of per-sample parameters, which are summed over the data axis only.
    data_ranks
        What sums are divided by.

    Raises
    ------
    ValueError
        If the engine cannot sum what is compressed.
    """

    def __init__(
        self,
        engine: Engine,
        named: Named,
        *,
        axes: Sequence[Axis],
        rows: Collection[str],
        data_ranks: int,
        compression: Compression,
        watchdog: Watchdog,
    ) -> None:
        if compression not in engine.compressions:
            known = " or ".join(sorted(engine.compressions))
            raise ValueError(
                f"train.compression = {compression}: {engine.title} cannot sum it, expected "
                f"{known}; or set grid.engine to one that can"
            )
        self._engine, self._watchdog = engine, watchdog
        self._data_ranks = data_ranks
        along_data: tuple[Axis, ...] = ("data",) if data_ranks > 1 else ()
        kinds = {
            name: kind_of(p, along_data if name in rows else tuple(axes), compression)
            for name, p in named
        }
        self._kinds = kinds
        # What no other rank has a part of is taken as it is.
        self._alone = [(name, p) for name, p in named if not kinds[name].axes]
        self._named = {name: p for name, p in named if kinds[name].axes}
        self._reducing = False
        self._came: dict[str, None] = {}  # whose gradients are there, in this order
        self._is_ordered = False
        # Backward begins with the last layers.
        self._arrange(list(reversed(self._named)))
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda _, name=name: self._ready(name)
            )
            for name, parameter in self._named.items()
        ]

    def begin(self) -> None:
        for bucket in self._buckets:  # of a step that ended in an error
            bucket.clear()
        self._came, self._next = {}, 0
        self._reducing = False

    def at_last_pass(self) -> None:
        self._reducing = True

    def _ready(self, name: str) -> None:
        if not self._reducing:  # an earlier pass, or another step over the same parameters
            return
        if name in self._came:
            raise RuntimeError(
                f"{name}: got more than one gradient in the last backward pass, when the ranks "
                "were summing it already; torch.utils.checkpoint over a layer that is used twice "
                "does so: set use_reentrant=False"
            )
        self._bucket_of[name].put(name)
        self._came[name] = None
        if self._is_ordered:
            self._start_full()

    def _start_full(self) -> None:
        while self._next < len(self._buckets) and self._buckets[self._next].is_full:
            self._buckets[self._next].start(self._engine)
            self._next += 1

    def wait(self, unused: Collection[str] = ()) -> None:
        self._reducing = False
        with self._watchdog.watching("a reduction of gradients"):
            for bucket in self._buckets[self._next :]:
                if bucket.fill_up(unused):
                    bucket.start(self._engine)
            going = self._buckets
            while going:
                going = [bucket for bucket in going if bucket.advance(self._engine)]
            order = [] if self._is_ordered else self._order()
        for bucket in self._buckets:
            bucket.take_out(self._data_ranks)
        for name, parameter in self._alone:
            if parameter.grad is None and name not in unused:
                parameter.grad = torch.zeros_like(parameter)
        if order:
            self._arrange(order)
        self._is_ordered = True

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for bucket in self._buckets:
            bucket.clear()

    def _arrange(self, names: Sequence[str]) -> None:
        named = [(name, self._named[name]) for name in names]
        self._buckets = fill_buckets(named, self._kinds.__getitem__)
        self._bucket_of = {name: bucket for bucket in self._buckets for name in bucket.named}
        self._next = 0

    def _order(self) -> list[str]:
        """Collective over the world: return the names as their gradients came on world rank 0, last
        what it has none of; nothing where the order is of no use.
        """
        if len(self._buckets) == len({self._kinds[name] for name in self._named}):
            return []
        names = list(self._named)
        place = {name: number for number, name in enumerate(names)}
        late = self._named.keys() - set(self._came)
        order = [*self._came, *(name for name in names if name in late)]
        places = torch.tensor([place[name] for name in order], device=self._kinds[names[0]].device)
        self._engine.broadcast(places, axis="world", name="order of gradients")
        return [names[place] for place in places.tolist()]
