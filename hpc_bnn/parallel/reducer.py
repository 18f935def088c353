"""Gradients become sums over the sample axis and means over the data axis while backward runs; of
per-sample parameters, means over the data axis only.

A gradient is what all ranks together have: where some ranks have none of a parameter, theirs counts
as zero; where no rank has one, the parameter is left without, so that the optimizer skips it as
torch does on one rank.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hpc_bnn.parallel.watchdog import Watchdog


class Reducer(Protocol):
    """Reduces gradients while backward still runs."""

    # What a rank must multiply its share of the objective by.
    scale: float

    def begin(self) -> None:
        """Start a step: from now on to ``wait`` each gradient is reduced when it is ready."""

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

    scale = 1.0

    def begin(self) -> None:
        return

    def wait(self, unused: Collection[str] = ()) -> None:
        return

    def close(self) -> None:
        return


class Stage(NamedTuple):
    """One reduction of every gradient."""

    prefix: str
    process_set: Any
    op: Any


class RankReducer:
    """Starts the reduction of a gradient in the last of its backward passes; later stages follow in
    ``wait``.

    Not Horovod's DistributedOptimizer: that fills in zeros where no rank has a gradient, and an
    optimizer then moves what nothing has asked to move; and its hooks stay for ever, so that two
    steps over the same parameters would both reduce.
    """

    def __init__(
        self,
        hvd: Any,
        named: Sequence[tuple[str, nn.Parameter]],
        passes: int,
        codec: Any,
        stages: Callable[[str], Sequence[Stage]],
        scale: float,
        watchdog: Watchdog,
    ) -> None:
        self.scale = scale
        self._hvd, self._named, self._passes, self._codec = hvd, named, passes, codec
        self._stages, self._watchdog = stages, watchdog
        self._reducing = False
        self._left: dict[str, int] = {}
        self._sums: dict[str, Tensor] = {}  # what is reduced, often the gradient itself
        self._started: dict[str, tuple[Any, Any, int]] = {}
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                lambda p, name=name: self._ready(name, p)
            )
            for name, parameter in named
        ]

    def begin(self) -> None:
        self._finish()
        self._left = {name: self._passes for name, _ in self._named}
        self._reducing = True

    def _ready(self, name: str, parameter: nn.Parameter) -> None:
        if not self._reducing:  # another step over the same parameters
            return
        self._left[name] -= 1
        if self._left[name] == 0:
            self._take_up(name, parameter)
            self._start(name, 0)
        elif self._left[name] < 0:
            raise RuntimeError(
                f"{name}: got more than one gradient in one of {self._passes} backward passes, "
                "when the ranks were summing it already; torch.utils.checkpoint over a layer that "
                "is used twice does so: set use_reentrant=False"
            )

    def _take_up(self, name: str, parameter: nn.Parameter) -> None:
        if parameter.grad is None:  # unused here: the other ranks still expect a tensor
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.layout != torch.strided:
            parameter.grad = parameter.grad.to_dense()
        self._sums[name] = _summable(parameter.grad)

    def _start(self, name: str, number: int) -> None:
        """Start a stage of a parameter, unless it has fewer."""
        stages = self._stages(name)
        if number >= len(stages):
            return
        stage = stages[number]
        tensor, context = self._codec.compress(self._sums[name])
        handle = self._hvd.allreduce_async_(
            tensor, name=stage.prefix + name, op=stage.op, process_set=stage.process_set
        )
        self._started[name] = handle, context, number

    def wait(self, unused: Collection[str] = ()) -> None:
        self._reducing = False
        used = [(name, parameter) for name, parameter in self._named if name not in unused]
        with self._watchdog.watching("a reduction of gradients"):
            for name, parameter in used:
                if name not in self._sums:
                    self._take_up(name, parameter)
                    self._start(name, 0)
            while self._started:
                for name in [name for name, _ in used if name in self._started]:
                    handle, context, number = self._started.pop(name)
                    reduced = self._hvd.synchronize(handle)
                    self._sums[name] = self._codec.decompress(reduced, context)
                    self._start(name, number + 1)
        for name, parameter in used:
            _write_back(parameter, self._sums.pop(name))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._finish()

    def _finish(self) -> None:
        """End what a step that ended in an error has begun: its names are needed again."""
        for handle, *_ in self._started.values():
            self._hvd.synchronize(handle)
        self._started, self._sums = {}, {}


def _summable(gradient: Tensor) -> Tensor:
    """Return ``gradient`` as what Horovod sums well: contiguous real numbers of at least float32
    (it knows no bfloat16); the memory of ``gradient`` itself where that is so already.
    """
    gradient = gradient.resolve_conj().resolve_neg()
    real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return (real if real.element_size() >= 4 else real.float()).contiguous()


def _write_back(parameter: nn.Parameter, reduced: Tensor) -> None:
    gradient = parameter.grad
    assert gradient is not None
    values = torch.view_as_complex(reduced) if gradient.is_complex() else reduced
    if values.data_ptr() != gradient.data_ptr():
        gradient.copy_(values)
