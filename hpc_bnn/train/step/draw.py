"""The weights of one or several passes, drawn at once.

A call costs a small network as much as thousands of weights, so its passes share a draw: they
compute with leaves, views of the drawn tensors, and what gathers there is pulled back through the
draw once, when all of them have gone backward. A large network draws for one pass at a time, and
backward goes through the draw as it reaches each weight, so that nothing is held and ranks reduce
meanwhile.

A single pass takes leaves, too, where activation checkpointing of the older, *reentrant* kind runs
a backward pass of its own for each block: drawn weights of several blocks come from one autograd
function, which can go backward only once.

A forecast of several steps may have weights of its own at each lead time: a draw holds those of all
of them, and pulls them back at once, so that a parameter gets one gradient of a draw.

Letters: S samples of a pass, C samples of the draw.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Weights = Mapping[str, Tensor]


class Draw:
    """Weights of ``parts``, the samples of one pass after the other.

    Parameters
    ----------
    drawn
        The weights (C, *shape) by name, with the graph of their draw, of each lead time; of one
        where they are kept.
    """

    def __init__(
        self, step: int, parts: Sequence[range], drawn: Sequence[dict[str, Tensor]]
    ) -> None:
        self.step, self.parts = step, parts
        self._drawn = drawn
        self._leaves: list[dict[range, dict[str, Tensor]]] = []
        if len(parts) > 1:
            self.cut()

    @property
    def has_leaves(self) -> bool:
        """Whether passes compute with leaves."""
        return bool(self._leaves)

    def cut(self) -> None:
        """Let passes compute with leaves."""
        self._leaves = [self._cut(drawn) for drawn in self._drawn]

    def _cut(self, drawn: dict[str, Tensor]) -> dict[range, dict[str, Tensor]]:
        cut: dict[range, dict[str, Tensor]] = {part: {} for part in self.parts}
        lengths = [len(part) for part in self.parts]
        for name, weight in drawn.items():
            rows = weight.detach()
            pieces = rows.unbind() if max(lengths) == 1 else _split(rows, lengths)
            for leaves, piece in zip(cut.values(), pieces, strict=True):
                leaves[name] = piece.requires_grad_(weight.requires_grad)
        return cut

    def weights(self, part: range) -> list[Weights]:
        """Return what a pass computes with at each lead time, (S, *shape) by name, or (*shape) of
        one sample.
        """
        if self._leaves:
            return [leaves[part] for leaves in self._leaves]
        if len(part) > 1:
            return list(self._drawn)
        return [{name: w.squeeze(0) for name, w in drawn.items()} for drawn in self._drawn]

    def pull(self) -> None:
        """Add what gathered in leaves to the gradients of the parameters."""
        roots: list[Tensor] = []
        gradients: list[Tensor] = []
        for drawn, cut in zip(self._drawn, self._leaves, strict=False):  # there may be no leaves
            for name, weight in drawn.items():
                leaves = [weights.pop(name) for weights in cut.values()]
                if any(leaf.grad is not None for leaf in leaves):
                    roots.append(weight)
                    gradients.append(_joined([_gradient(leaf) for leaf in leaves], weight))
        self._leaves = []
        if roots:
            _Handover.apply(gradients, *roots).backward()  # type: ignore[no-untyped-call]


class _Handover(torch.autograd.Function):
    """A number whose backward pass hands each root its gradient: torch.autograd.backward with
    gradients imports sympy, half a second of every rank.
    """

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *roots: Tensor) -> Tensor:
        ctx.gradients = gradients
        return roots[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.gradients)


def _split(rows: Tensor, lengths: list[int]) -> list[Tensor]:
    """Return the rows of each pass, (S, *shape), or (*shape) of one sample."""
    return [part[0] if len(part) == 1 else part for part in torch.split(rows, lengths)]


def _gradient(leaf: Tensor) -> Tensor:
    if leaf.grad is None:
        return torch.zeros_like(leaf)
    return leaf.grad.to_dense() if leaf.grad.is_sparse else leaf.grad


def _joined(parts: list[Tensor], drawn: Tensor) -> Tensor:
    """Return gradients (C, *shape) of passes, each (S, *shape), or (*shape) of one sample."""
    if len(parts) == len(drawn):
        return torch.stack(parts)
    return torch.cat([part if part.dim() == drawn.dim() else part[None] for part in parts])
