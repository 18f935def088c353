"""One forward pass and its backward, in which parts of the network may run again.

A network with activation checkpointing runs its blocks a second time in backward, so the drawn
weights and the keyed dropout of the pass are put in place there too.

The older, *reentrant* kind runs a backward pass of its own for each block. Drawn weights of several
blocks come from one autograd function, which can go backward only once: so such a network gets them
as leaves, and what gathers there is pulled back through the draw at the end.

Letters: S samples of the pass, B examples.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hpc_bnn.bayes.dropout import KeyedDropout
from hpc_bnn.bayes.held import count_samples, in_one_pass
from hpc_bnn.bayes.posterior import Posterior

_REENTRANT = "CheckpointFunctionBackward"  # torch.utils.checkpoint, use_reentrant=True


class Pass:
    """A pass on drawn weights.

    Parameters
    ----------
    drawn
        The weights (S, *shape) by name, with the graph of their draw.
    dropout
        What replaces the dropout of the pass; None: nothing.
    reentrant
        Whether the network holds reentrant checkpoints.

    Attributes
    ----------
    weights
        What the network computes with.
    outputs
        (S, B, ...), set by whoever runs the pass.
    """

    outputs: Tensor

    def __init__(
        self,
        posterior: Posterior,
        drawn: dict[str, Tensor],
        dropout: KeyedDropout | None,
        *,
        reentrant: bool = False,
    ) -> None:
        self._posterior, self._drawn, self.dropout = posterior, drawn, dropout
        self._leaves = reentrant and torch.is_grad_enabled()
        self.weights = drawn
        if self._leaves:
            self.weights = {k: v.detach().requires_grad_(v.requires_grad) for k, v in drawn.items()}

    def backward(
        self, root: Tensor, *, gradient: Tensor | None = None, more: Tensor | None = None
    ) -> None:
        """Add the gradients of ``root`` to those of the parameters.

        Parameters
        ----------
        root
            A scalar made of the outputs, or with ``gradient`` (of its shape) the outputs.
        more
            A scalar of the parameters alone, such as a KL, for the same backward pass.
        """
        roots, gradients = [root], [gradient]
        rest = [] if more is None else [more]
        if not self._leaves:
            roots, gradients, rest = [*roots, *rest], [*gradients, *[None] * len(rest)], []
        with self._again():
            _backward(roots, gradients)
        if self._leaves:
            reached = [name for name, leaf in self.weights.items() if leaf.grad is not None]
            pulls = [self.weights[name].grad for name in reached]
            _backward([*(self._drawn[n] for n in reached), *rest], [*pulls, *[None] * len(rest)])

    @contextlib.contextmanager
    def _again(self) -> Iterator[None]:
        """Put in place what parts of the network need that run again."""
        samples = count_samples(self.weights)
        single = {k: v.squeeze(0) for k, v in self.weights.items()} if samples == 1 else {}
        dropout = contextlib.nullcontext() if self.dropout is None else self.dropout.in_backward()
        with self._posterior.holding(single), dropout, in_one_pass(samples):
            yield


def _backward(roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    try:
        torch.autograd.backward(roots, gradients)
    except RuntimeError as error:
        if "through the graph a second time" not in str(error):
            raise
        raise RuntimeError(
            "backward ran through the draw of the weights twice: reentrant activation "
            "checkpointing was switched on after the first step, or one tensor was kept between "
            "passes. Make hb.Step after switching it on, or use use_reentrant=False"
        ) from error


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
