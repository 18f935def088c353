"""The graphs of the passes of a step, for batches of one shape.

Batch, gradients and losses lie in tensors that stay where they are. A pass is captured as that of
one weight sample; step and sample of all noise are read from the device (``Stream.shift``), so that
its replay is the pass of any sample. Where samples differ in more than noise, such as members that
have rows of their own, each has a graph of its own.

Of a separable loss a graph holds a whole pass; ``joint_graphs`` has the others.

Letters: S samples of a pass, B examples, P passes.
"""

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors, tensors_of
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.losses.base import SeparableLoss
from hpc_bnn.losses.objective import separable_share
from hpc_bnn.train.step.accumulate import Share
from hpc_bnn.train.step.gradients import Gradients
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.recorder import Recorder, Work

# How far a replay may be from its pass: of the norm of each tensor, and of that of all together.
CLOSE, CLOSE_TO_ALL = 1e-2, 1e-5


class NotCaptured(Exception):
    """Says why passes cannot be captured."""


class Graphs(ABC):
    """What batches like that of ``share`` run with.

    Parameters
    ----------
    passes
        Of a network that has run with such a batch before.
    own_targets
        Whether each sample has targets of its own.
    """

    def __init__(
        self,
        posterior: Posterior,
        passes: Passes,
        gradients: Gradients,
        share: Share,
        *,
        own_targets: bool = False,
    ) -> None:
        self._posterior, self._passes, self._gradients = posterior, passes, gradients
        self._scale, self._examples = share.scale, count_examples(share.x)
        apart = own_targets or any(True for _ in posterior.per_sample())
        # The samples that each pass is captured as.
        self._bases = [part if apart else range(len(part)) for part in passes.parts]

    def record(self, share: Share, recorder: Recorder) -> bool:
        """Capture the passes, and prove of the first and the last one that replays give what they
        give; False: they give no finite numbers.

        Raises
        ------
        NotCaptured
            If they cannot be captured.
        RuntimeError
            As the recorder raises it.
        """
        step, last = share.step, len(self._bases) - 1
        value, gradients = self._outcome_of(share, step, 0)
        x, self._views = self._passes.augmented(share.x, step, self._passes.parts[0])
        self._x, self._y = map_tensors(torch.clone, x), share.y.clone()
        parts = zip(self._passes.parts, self._bases, strict=True)
        shifts = [[0, part.start - base.start] for part, base in parts]
        self._shifts = torch.tensor(shifts, device=share.y.device)  # (P, 2)
        self._shift = self._shifts[0].clone()
        self._total = torch.zeros_like(value)
        self._buffers = {name: torch.zeros_like(grad) for name, grad in gradients.items()}
        # One launch zeroes tensors of one dtype.
        dtypes = {buffer.dtype for buffer in self._buffers.values()}
        self._alike = [
            [buffer for buffer in self._buffers.values() if buffer.dtype == dtype]
            for dtype in dtypes
        ]
        for base in dict.fromkeys(self._bases):
            self._begin(share)
            self._capture(base, recorder)
        if not self._agrees(share, step, 0, value, gradients):
            return False
        del value, gradients  # before those of the other one
        return self._agrees(share, step + 1, last, *self._outcome_of(share, step + 1, last))

    def _agrees(
        self, share: Share, step: int, place: int, value: Tensor, gradients: dict[str, Tensor]
    ) -> bool:
        """Return whether a pass has a finite outcome; raise NotCaptured if it has, and its replay
        another one.
        """
        if gradients.keys() != self._buffers.keys():
            names = ", ".join(sorted(gradients.keys() ^ self._buffers.keys()))
            raise NotCaptured(f"not every pass has a gradient of {names}")
        self._begin(replace(share, step=step))
        pairs = [(self._probe(share, step, place), value)]
        pairs += [(self._buffers[name], grad) for name, grad in gradients.items()]
        norms = [torch.stack([(a - b).norm().double(), b.norm().double()]) for a, b in pairs]
        off, whole = torch.stack(norms).T.cpu()
        if not whole.isfinite().all():
            return False
        if not (off <= CLOSE * whole + CLOSE_TO_ALL * whole.norm()).all():
            raise NotCaptured(
                "a replay gives other numbers than the pass itself: its noise is not all shifted "
                "by Key.shift, or it depends on something that changes from pass to pass"
            )
        return True

    def run(self, share: Share) -> Tensor:
        """Collective over the sample axis: do what ``accumulate.accumulate`` does."""
        self._begin(share)
        share.pull_complexity()
        return self._run(share)

    def _begin(self, share: Share) -> None:
        """Take up a batch, and let the gradients of a step gather where the graphs add to them."""
        self._total.zero_()
        for alike in self._alike:
            torch._foreach_zero_(alike)
        for name, buffer in self._buffers.items():
            self._gradients.named[name].grad = buffer
        self._shifts[:, 0].fill_(share.step)
        self._y.copy_(share.y)
        self._loaded: Inputs = None

    def _load(self, share: Share, step: int, place: int) -> None:
        """Take up what a pass differs in from the others."""
        x, _ = self._passes.augmented(share.x, step, self._passes.parts[place])
        if x is not self._loaded:
            for own, given in zip(tensors_of(self._x), tensors_of(x), strict=True):
                own.copy_(given)
            self._loaded = x
        self._shift.copy_(self._shifts[place])

    def _outcome_of(self, share: Share, step: int, place: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the value of a pass that is not captured, and its gradients by name."""
        named, part = self._gradients.named, self._passes.parts[place]
        for parameter in named.values():
            parameter.grad = None
        x, views = self._passes.augmented(share.x, step, part)
        value = self._pass(x, share.y, self._posterior.key(step, part), views=views)
        gradients = {name: p.grad for name, p in named.items() if p.grad is not None}
        for name, gradient in gradients.items():
            named[name].grad = None
            if gradient.layout != torch.strided:
                raise NotCaptured(f"the gradient of {name} is sparse")
        return value, gradients

    def _forward(self, x: Inputs, key: Key, *, views: bool) -> Pass:
        return self._passes.run_keyed(x, key, views=views, examples=self._examples)

    def _backward(self, one: Pass, root: Tensor, gradient: Tensor | None = None) -> None:
        one.backward(root, gradient)
        one.draw.pull()

    def _key(self, base: range) -> Key:
        # As if a pass had been before it: its gradients are there to be added to.
        return replace(self._posterior.key(0, base), preceding=1, shift=self._shift)

    @abstractmethod
    def _pass(self, x: Inputs, y: Tensor, key: Key, *, views: bool) -> Tensor:
        """Run a pass forward and backward and return its value."""

    @abstractmethod
    def _capture(self, base: range, recorder: Recorder) -> None:
        """Capture the pass of ``base``."""

    @abstractmethod
    def _probe(self, share: Share, step: int, place: int) -> Tensor:
        """Do what ``_pass`` does by replay."""

    @abstractmethod
    def _run(self, share: Share) -> Tensor:
        """Replay all passes and return the share of the data term."""


class SeparableGraphs(Graphs):
    """A whole pass is one graph."""

    def __init__(
        self,
        loss: SeparableLoss,
        posterior: Posterior,
        passes: Passes,
        gradients: Gradients,
        share: Share,
    ) -> None:
        own_targets = type(loss).target_of is not SeparableLoss.target_of
        super().__init__(posterior, passes, gradients, share, own_targets=own_targets)
        self._loss = loss
        self._replays: dict[range, Work] = {}

    def _pass(self, x: Inputs, y: Tensor, key: Key, *, views: bool) -> Tensor:
        one = self._forward(x, key, views=views)
        samples = self._passes.settings.samples
        value = separable_share(self._loss, one.each, y, samples, key.samples)
        self._backward(one, value * self._scale)
        return value.detach()

    def _capture(self, base: range, recorder: Recorder) -> None:
        def work() -> None:
            value = self._pass(self._x, self._y, self._key(base), views=self._views)
            self._total.add_(value)

        recorder.warm_up(work)
        self._replays[base] = recorder.capture(work)

    def _probe(self, share: Share, step: int, place: int) -> Tensor:
        self._load(share, step, place)
        self._replays[self._bases[place]]()
        return self._total

    def _run(self, share: Share) -> Tensor:
        for place in range(len(self._bases)):
            self._probe(share, share.step, place)
        return self._total
