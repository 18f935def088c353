"""Whether the passes of a step run as ever, or each as one call: a CUDA graph.

The host hands the kernels of a small network to a GPU more slowly than this runs them. A captured
pass is handed over at once. The first step with batches of some shape runs as ever, which shows
what is to be known of the network; the second one in a row is captured (``graphs``). A batch whose
shape came once, such as a short last one, is not.

A graph repeats what was recorded. So it serves only while all that it was recorded with is what it
was: where tensors lie, what is trained, and every plain attribute of network and loss.
"""

import logging
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from hpc_bnn.bayes.inputs import Inputs
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.group import Group
from hpc_bnn.losses.base import JointLoss, Loss
from hpc_bnn.train.step.accumulate import Share, accumulate
from hpc_bnn.train.step.gradients import Gradients
from hpc_bnn.train.step.graphs import Graphs, NotCaptured, SeparableGraphs
from hpc_bnn.train.step.joint_graphs import JointGraphs
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.recorder import Recorder, reason_of, recorder_of
from hpc_bnn.train.step.settings import CaptureMode
from hpc_bnn.train.step.unchanged import Unchanged

SHAPES = 4  # of batches, whose graphs are kept

log = logging.getLogger(__name__)


class _Signature(NamedTuple):
    """What a graph is recorded with: the shape of a batch, and all that may not change."""

    batch: Hashable
    scale: float
    state: Hashable


class Capture:
    """What a step runs its passes with.

    Attributes
    ----------
    recorder
        What makes graphs; None: passes are not captured.
    mode
        As of ``StepSettings``.

    Raises
    ------
    ValueError
        With the mode ``on``, if passes cannot be captured: here where that is known, else from the
        step that shows it.
    """

    def __init__(
        self,
        posterior: Posterior,
        loss: Loss,
        passes: Passes,
        gradients: Gradients,
        axis: Group,
        *,
        mode: CaptureMode,
        device: torch.device,
    ) -> None:
        self._posterior, self._loss, self._axis = posterior, loss, axis
        self._passes, self._gradients, self.mode = passes, gradients, mode
        self.recorder = None if mode == "off" else recorder_of(device)
        self._unchanged = Unchanged(posterior, loss)
        self._graphs: dict[_Signature, Graphs] = {}
        self._last: _Signature | None = None
        self._has_told = False
        if passes.settings.input_noise is not None:
            self.recorder = None
            if mode == "on":
                self._refuse("inputs have noise (perturb.at)")
        if mode == "on" and self.recorder is None:
            self._refuse(f"there are CUDA graphs on GPUs only, and this rank computes on {device}")

    @property
    def has_graphs(self) -> bool:
        """Whether passes of some batch are captured."""
        return bool(self._graphs)

    def accumulate(self, share: Share) -> Tensor:
        """Collective over the sample axis: do what ``accumulate.accumulate`` does."""
        graphs = None if self.recorder is None else self._graphs_of(share, self.recorder)
        if graphs is not None:
            return graphs.run(share)
        data_share = accumulate(self._loss, self._passes, self._axis, share)
        if self.recorder is not None:  # as the passes left it: the first ones learn something
            self._last = self._signature(share)
        return data_share

    def _graphs_of(self, share: Share, recorder: Recorder) -> Graphs | None:
        """Return the graphs of batches like this one; None: it runs without."""
        signature, before = self._signature(share), self._last
        self._last = signature
        if signature in self._graphs:
            return self._graphs[signature]
        if signature != before:
            if before is not None:
                self._tell_change(share.step, before, signature)
            return None
        try:
            graphs = self._made_for(share)
            is_finite = graphs.record(share, recorder)
        except (NotCaptured, RuntimeError, NotImplementedError) as error:
            self._gradients.begin()
            self._refuse(str(error) if isinstance(error, NotCaptured) else reason_of(error))
            return None
        if not is_finite:  # the step says more of it
            self._gradients.begin()
            return None
        self._keep(signature, graphs)
        return graphs

    def _made_for(self, share: Share) -> Graphs:
        parts = self._posterior, self._passes, self._gradients
        if isinstance(self._loss, JointLoss):
            return JointGraphs(self._loss, self._axis, *parts, share)
        return SeparableGraphs(self._loss, *parts, share)

    def _keep(self, signature: _Signature, graphs: Graphs) -> None:
        """Keep these graphs, and the newest others that may serve again."""
        alike = [key for key in self._graphs if key.state == signature.state][1 - SHAPES :]
        self._graphs = {**{key: self._graphs[key] for key in alike}, signature: graphs}

    def _signature(self, share: Share) -> _Signature:
        batch = _shape(share.x), _shape(share.y)
        return _Signature(batch, share.scale, self._unchanged.state())

    def _tell_change(self, step: int, before: _Signature, signature: _Signature) -> None:
        """Say once that a step is not captured since it differs from the one before."""
        if not self._has_told:
            self._has_told = True
            change = "network or loss were changed"
            if before.batch != signature.batch:
                change = "its batch has another shape than the one before"
            log.info("train.capture: step %d runs without a graph: %s", step, change)

    def _refuse(self, reason: str) -> None:
        """Say that passes run without graphs from now on."""
        self.recorder = None
        self._graphs.clear()
        if self.mode == "on":
            raise ValueError(
                f"train.capture = on: passes cannot be captured: {reason}; set it to auto or off"
            )
        log.warning("train.capture: passes run without graphs: %s", reason)


def _shape(x: Inputs) -> Hashable:
    """Return what batches have in common that a graph serves."""
    leaves, structure = tree.tree_flatten(x)
    kinds = [
        (tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else repr(leaf)
        for leaf in leaves
    ]
    return str(structure), tuple(kinds)
