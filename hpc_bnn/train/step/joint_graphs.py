"""The graphs of passes that a joint loss joins.

The loss is not captured, since ranks exchange in it. One graph runs a pass forward. Another one
takes it backward from the gradient of its outputs; where a rank has several passes it runs the pass
again for that, as ``accumulate`` does.

Letters: S samples of a pass, B examples.
"""

import torch
from torch import Tensor

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.group import Group
from hpc_bnn.losses.base import JointLoss
from hpc_bnn.losses.objective import joint_share
from hpc_bnn.train.step.accumulate import Share
from hpc_bnn.train.step.gradients import Gradients
from hpc_bnn.train.step.graphs import Graphs, NotCaptured
from hpc_bnn.train.step.one_pass import Pass
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.recorder import Recorder, Work


class JointGraphs(Graphs):
    """One graph runs a pass forward, one takes it backward."""

    def __init__(
        self,
        loss: JointLoss,
        axis: Group,
        posterior: Posterior,
        passes: Passes,
        gradients: Gradients,
        share: Share,
    ) -> None:
        super().__init__(posterior, passes, gradients, share)
        self._loss, self._axis = loss, axis
        self._alone = len(passes.parts) == 1
        if passes.settings.keep_graphs and not self._alone:
            raise NotCaptured("posterior.keep_graphs holds the activations of several passes")
        self._forwards: dict[range, Work] = {}
        self._backwards: dict[range, Work] = {}
        self._outputs: dict[range, Tensor] = {}  # (S, B, ...)
        self._pulls: dict[range, Tensor] = {}  # the gradients of those

    def _pass(self, x: Inputs, y: Tensor, key: Key, *, views: bool) -> Tensor:
        one = self._forward(x, key, views=views)
        self._backward(one, one.outputs, one.outputs.detach())
        return one.outputs.detach()

    def _capture(self, base: range, recorder: Recorder) -> None:
        key = self._key(base)
        with torch.no_grad():
            outputs = self._forward(self._x, key, views=self._views).outputs.clone()
        self._outputs[base], self._pulls[base] = outputs, outputs.clone()
        kept: list[Pass] = []

        def forward() -> None:
            with torch.set_grad_enabled(self._alone):
                one = self._forward(self._x, key, views=self._views)
            outputs.copy_(one.outputs.detach())
            kept.extend([one] if self._alone else [])

        def backward() -> None:
            one = kept.pop() if kept else self._forward(self._x, key, views=self._views)
            self._backward(one, one.outputs, self._pulls[base])

        def both() -> None:
            forward()
            backward()

        recorder.warm_up(both)
        self._forwards[base] = recorder.capture(forward)
        self._backwards[base] = recorder.capture(backward)

    def _probe(self, share: Share, step: int, place: int) -> Tensor:
        base = self._bases[place]
        self._load(share, step, place)
        self._forwards[base]()
        self._pulls[base].copy_(self._outputs[base])
        self._backwards[base]()
        return self._outputs[base]

    def _run(self, share: Share) -> Tensor:
        first: list[Tensor] = []
        for place, base in enumerate(self._bases):
            self._load(share, share.step, place)
            self._forwards[base]()
            first.append(self._outputs[base].clone())
        outputs = torch.cat(first).requires_grad_()
        exact = self._passes.settings.exact
        value = joint_share(self._loss, outputs, self._y, self._axis, exact=exact)
        torch.autograd.backward(value * share.scale)
        assert outputs.grad is not None
        gradients = torch.split(outputs.grad, [len(base) for base in self._bases])
        for place, (base, gradient) in enumerate(zip(self._bases, gradients, strict=True)):
            self._load(share, share.step, place)
            self._pulls[base].copy_(gradient)
            self._backwards[base]()
        return value.detach()
