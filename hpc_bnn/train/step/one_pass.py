"""One forward pass and its backward, in which parts of the network may run again.

A network with activation checkpointing runs its blocks a second time in backward, so the drawn
weights and the keyed dropout of the pass are put in place there too. Of a forecast whose steps have
weights of their own, backward comes to the last step first, and says when it comes to another.

Letters: S samples of the pass, B examples.
"""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.held import in_one_pass
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.train.step.draw import Draw, Weights

_NOTHING = contextlib.nullcontext()
_REENTRANT = "CheckpointFunctionBackward"  # torch.utils.checkpoint, use_reentrant=True


class Pass:
    """A pass on drawn weights.

    Parameters
    ----------
    draw
        That of its weights.
    part
        The global indices of its samples.
    dropout
        What replaces the dropout of the pass; None: nothing.

    Attributes
    ----------
    weights
        What the network computes with at each lead time, (S, *shape) by name, or (*shape) of one
        sample; at all of them with the first where there is no other.
    each
        The outputs (S, B, ...), of one sample alone (B, ...), set by whoever runs the pass.
    """

    each: Tensor | tuple[Tensor]

    def __init__(
        self,
        posterior: Posterior,
        draw: Draw,
        part: range,
        dropout: KeyedDropout | None,
    ) -> None:
        self._posterior, self.draw, self.part = posterior, draw, part
        self.weights, self.dropout = draw.weights(part), dropout
        self._held = _Held(posterior, self.weights)

    def weights_at(self, lead: int) -> Weights:
        """Return the weights of a lead time, counted from 0."""
        return self.weights[lead if len(self.weights) > 1 else 0]

    def watch(self, output: Tensor, lead: int) -> Tensor:
        """Return ``output`` of a lead time, at which backward will say that it comes there."""
        if len(self.weights) > 1 and len(self.part) == 1 and output.requires_grad:
            held = self._held  # not this pass, which has the outputs: they would hold one another
            output.register_hook(lambda _: held.switch(lead))  # type: ignore[no-untyped-call]
        return output

    @property
    def outputs(self) -> Tensor:
        """The outputs (S, B, ...)."""
        return as_samples(self.each)

    def backward(self, root: Tensor, gradient: Tensor | None = None) -> None:
        """Add the gradients of ``root`` to those of the parameters, or to those of the weights
        where these are leaves.

        Parameters
        ----------
        root
            A scalar made of the outputs, or with ``gradient`` (of its shape) the outputs.
        """
        if len(self.part) > 1:
            with in_one_pass(len(self.part)):
                _backward(root, gradient)
            return
        # Parts of the network that run again need what they ran with.
        dropout = _NOTHING if self.dropout is None else self.dropout.in_backward()
        with self._held, dropout:
            _backward(root, gradient)


class _Held:
    """A block in which the network has the weights of one lead time instead of its own; those of
    the last one first.
    """

    def __init__(self, posterior: Posterior, weights: Sequence[Weights]) -> None:
        self._posterior, self._weights = posterior, weights
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        self.switch(-1)

    def switch(self, lead: int) -> None:
        """Take the weights of another lead time."""
        self._stack.close()
        self._stack.enter_context(self._posterior.holding(self._weights[lead]))

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _backward(root: Tensor, gradient: Tensor | None) -> None:
    try:
        torch.autograd.backward(root, gradient)
    except RuntimeError as error:
        if "through the graph a second time" not in str(error):
            raise
        raise RuntimeError(
            "backward ran through the draw of the weights twice: reentrant activation "
            "checkpointing was switched on after the first step, or one tensor was kept between "
            "passes. Make hb.Step after switching it on, or use use_reentrant=False"
        ) from error


def as_samples(each: Tensor | tuple[Tensor]) -> Tensor:
    """Return outputs (S, B, ...), also of one sample alone."""
    return each if isinstance(each, Tensor) else each[0].unsqueeze(0)


def has_reentrant_checkpoint(outputs: Tensor) -> bool:
    """Tell whether the graph of ``outputs`` holds a reentrant checkpoint."""
    seen: set[object] = set()
    ahead = [outputs.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == _REENTRANT:
            return True
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]
    return False
