"""A training step that computes nothing: tensors without numbers go through the real network and
loss, so that its memory is known before there is a machine that could hold it.

Letters: S samples of a pass, K of the step, B examples of this rank.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.config import Settings
from hpc_bnn.losses.base import JointLoss, SeparableLoss
from hpc_bnn.losses.objective import joint_share, separable_share
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.plan.counting_axis import CountingAxis
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.run.build import Parts

_OnePass = tuple[Tensor, dict[str, Tensor]]


def step_bytes(parts: Parts, settings: Settings, grid: Grid) -> int:
    """Return the most memory that a step of one rank takes beyond parameters, optimizer and batch:
    gradients, drawn weights, activations and work space.

    ``parts`` cannot be used afterwards: their tensors lose their numbers.
    """
    step = _TracedStep(parts, settings, grid)
    with step.mode, LiveMemory() as live:
        step.run()
    return int(live.peak)


class _TracedStep:
    """What ``Step`` does between two optimizer steps, as far as it takes memory."""

    def __init__(self, parts: Parts, settings: Settings, grid: Grid) -> None:
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)  # the mask of fields
        self._posterior, self._loss, self._unroll = parts.posterior, parts.loss, parts.unroll
        self._settings = settings
        own = len(grid.own_samples(settings.posterior.samples))
        together = settings.posterior.samples_per_pass
        self._sizes = [min(together, own - first) for first in range(0, own, together)]
        examples = len(grid.own_examples(settings.train.batch_size))
        self._views = bool(settings.data.transform) and settings.data.augmentation == "per_sample"
        self._axis = CountingAxis(grid.sample_ranks)
        x, y = parts.source.train.batch(torch.tensor([0]))
        if self._unroll is not None:
            x, y = self._unroll.lengthened(x, y, settings.train.longest_rollout)
        for module in (self._posterior, self._loss):
            forget_numbers(module, self.mode)
        self._posterior.writes_to_input = False  # only a first pass copies its input to find out
        with self.mode:
            self._x, self._y = (self._batch(tensor, examples) for tensor in (x, y))
        if self._unroll is not None:
            self._y = self._unroll.targets(self._y)

    def _batch(self, one: Tensor, examples: int) -> Tensor:
        double = self._settings.train.precision == "float64" and one.is_floating_point()
        return torch.empty((examples, *one.shape[1:]), dtype=torch.float64 if double else one.dtype)

    def run(self) -> None:
        """Go through the forward and backward passes."""
        if isinstance(self._loss, SeparableLoss):
            for first, size in enumerate(self._sizes[:2]):  # the later ones are like the second
                outputs, held = self._pass(size)
                total = separable_share(
                    self._loss, outputs, self._y, self._settings.posterior.samples
                )
                torch.autograd.backward(self._with_kl([total], first))
                del held
        else:
            self._joint()

    def _joint(self) -> None:
        assert isinstance(self._loss, JointLoss)
        keep = self._settings.posterior.keep_graphs or len(self._sizes) == 1
        with torch.set_grad_enabled(keep):
            first = [self._first(size, keep) for size in self._sizes]
        kept = [one for _, one in first]
        outputs = torch.cat([outputs for outputs, _ in first]).requires_grad_()
        del first
        exact = self._settings.loss.exact
        share = joint_share(self._loss, outputs, self._y, self._axis, exact=exact)
        torch.autograd.backward(share)
        assert outputs.grad is not None
        gradients = torch.split(outputs.grad, self._sizes)
        for i, size in enumerate(self._sizes if keep else self._sizes[:2]):
            one = kept[i] or self._pass(size)
            kept[i] = None
            roots = self._with_kl([one[0]], i)
            torch.autograd.backward(roots, [gradients[i], *[None] * (len(roots) - 1)])
            del one

    def _first(self, samples: int, keep: bool) -> tuple[Tensor, _OnePass | None]:
        one = self._pass(samples)
        return one[0].detach(), one if keep else None

    def _with_kl(self, roots: list[Tensor], index: int) -> list[Tensor]:
        return [*roots, self._posterior.complexity()] if index == 0 else roots

    def _pass(self, samples: int) -> _OnePass:
        """Return the outputs and what is held until backward is done: the drawn weights."""
        bf16 = self._settings.train.precision == "bf16"
        x = self._x.expand(samples, *self._x.shape).clone() if self._views else self._x
        weights = self._posterior.sample(self._posterior.key(0, range(samples)))

        def network(x: Tensor, views: bool) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
                return self._posterior.apply_weights(x, weights, views=views)

        if self._unroll is None:
            return network(x, self._views), weights
        return self._unroll(x, network, views=self._views, contexts=_no_contexts), weights


def _no_contexts() -> tuple[contextlib.nullcontext[None], contextlib.nullcontext[None]]:
    return contextlib.nullcontext(), contextlib.nullcontext()


def forget_numbers(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace parameters and buffers by ones of the same shape that hold nothing."""
    for layer in module.modules():
        for name, parameter in layer._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter.detach())
                layer._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in layer._buffers.items():
            if buffer is not None:
                layer._buffers[name] = mode.from_tensor(buffer)
