"""The passes of a step of which few run: a step may have hundreds, and what a trace or a clock
learns of one holds for all of its length.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.settings import StepSettings


class FewPasses(Passes):
    """Passes of which the first ``real`` of each length run; the others only have outputs.

    Attributes
    ----------
    all_s
        Seconds that all passes would have taken so far, forward and backward.
    spent_s
        Seconds that went into passes.
    """

    def __init__(
        self, posterior: Posterior, world: World, settings: StepSettings, *, real: int
    ) -> None:
        super().__init__(posterior, world, settings, Phases(world.device))
        self.all_s = self.spent_s = 0.0
        self._device = world.device
        self._outputs: dict[int, tuple[torch.Size, torch.dtype]] = {}  # by length
        # How many passes each one stands for.
        counts, before = Counter(map(len, self.parts)), Counter[int]()
        self._weights: dict[range, float] = {}
        for part in self.parts:
            runs = min(real, counts[len(part)])
            self._weights[part] = counts[len(part)] / runs if before[len(part)] < runs else 0.0
            before[len(part)] += 1

    def run(self, x: Inputs, step: int, part: range) -> Pass:
        weight = self._weights[part]
        with self.clock(weight):
            if weight:
                one = super().run(x, step, part)
                self._outputs[len(part)] = one.outputs.shape, one.outputs.dtype
                return _Timed(self, one, weight)
            shape, dtype = self._outputs[len(part)]
            # Not equal to one another: equal members may be a special case of a score.
            outputs = torch.rand(shape, dtype=dtype, device=self._device)
            return _Omitted(outputs.requires_grad_(torch.is_grad_enabled()))

    @contextlib.contextmanager
    def clock(self, weight: float) -> Iterator[None]:
        """Count the seconds of a block as those of so many passes."""
        began = self.now()
        yield
        seconds = self.now() - began
        self.spent_s += seconds
        self.all_s += weight * seconds

    def now(self) -> float:
        """Return the time, in seconds, once the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _Timed(Pass):
    """A pass that has run."""

    def __init__(self, passes: FewPasses, one: Pass, weight: float) -> None:
        self._passes, self._one, self._weight, self.outputs = passes, one, weight, one.outputs

    def backward(
        self, root: Tensor, *, gradient: Tensor | None = None, more: Tensor | None = None
    ) -> None:
        with self._passes.clock(self._weight):
            self._one.backward(root, gradient=gradient, more=more)


class _Omitted(Pass):
    """A pass that has not."""

    def __init__(self, outputs: Tensor) -> None:
        self.outputs = outputs

    def backward(
        self, root: Tensor, *, gradient: Tensor | None = None, more: Tensor | None = None
    ) -> None:
        return
