"""The passes of a step of which few run: a step may have hundreds, and what a trace or a clock
learns of one holds for all of its length.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.draw import Draw
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.settings import StepSettings


class FewPasses(Passes):
    """Passes of which ``real`` of each length run, the first ones and the last; the others only
    have outputs, and gradients of weights that are leaves.

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
        self._weights = dict.fromkeys(self.parts, 0.0)  # how many passes each one stands for
        for length in {len(part) for part in self.parts}:
            alike = [part for part in self.parts if len(part) == length]
            # The last one holds what those before it left.
            for part in dict.fromkeys([*alike[: real - 1], alike[-1] if real > 1 else alike[0]]):
                self._weights[part] = len(alike) / min(real, len(alike))

    def draw(self, x: Inputs, step: int, parts: Sequence[range]) -> Draw:
        weight = self._weight_of(parts)
        if not weight:
            return Draw(step, parts, [{}])
        with self.clock(weight):
            return super().draw(x, step, parts)

    def run(self, x: Inputs, draw: Draw, part: range) -> Pass:
        weight = self._weights[part]
        if weight:
            with self.clock(weight):
                one = super().run(x, draw, part)
            self._outputs[len(part)] = one.outputs.shape, one.outputs.dtype
            return one
        one = Pass(self._posterior, draw, part, None)
        shape, dtype = self._outputs[len(part)]
        # Not equal to one another: equal members may be a special case of a score.
        outputs = torch.rand(shape, dtype=dtype, device=self._device)
        one.each = outputs.requires_grad_(torch.is_grad_enabled())
        return one

    def backward(self, one: Pass, root: Tensor, gradient: Tensor | None = None) -> None:
        weight = self._weights[one.part]
        with self.clock(weight):
            if weight:
                super().backward(one, root, gradient)
                return
            for tensor in chain.from_iterable(weights.values() for weights in one.weights):
                tensor.grad = torch.zeros_like(tensor) if tensor.requires_grad else None

    def pull(self, draw: Draw) -> None:
        with self.clock(self._weight_of(draw.parts)):
            super().pull(draw)

    def _weight_of(self, parts: Sequence[range]) -> float:
        """Return how many draws like that of ``parts`` it stands for."""
        return sum(self._weights[part] for part in parts) / len(parts)

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
