"""Proves that a network computes each example by itself, and that dropout finds the examples.

Data ranks share a batch, so what a network gives for an example may depend on nothing else in it.
Keyed dropout gives each example its own mask and takes the first dimension of an activation for the
examples. Both are seen by comparing a batch with each of its halves: whichever example the others
depend on, one half is without it, and dimensions that hold no examples keep their size.

Letters: B examples.
"""

import torch
from torch import Tensor, nn

from hpc_bnn.bayes.dropout import DropoutRows
from hpc_bnn.bayes.impure import SWITCH, ImpureError, Surroundings, close
from hpc_bnn.bayes.inputs import Inputs, count_examples, map_tensors


def refuse_mixed_examples(network: nn.Module, x: Inputs, surroundings: Surroundings) -> None:
    """Raise ImpureError unless outputs and dropped activations for ``x`` (B, ...) follow its
    examples to other batches.
    """
    examples = count_examples(x)
    outputs, dropped = _run(network, map_tensors(torch.clone, x), surroundings)
    middle = examples // 2
    halves = [list(range(middle, examples)), list(range(middle))]
    for places in halves if middle else [[0, 0]]:
        other = taken(x, places)
        if not middle:  # a single example stands twice, the second time as another one
            other = map_tensors(_second_changed, other)
        try:
            moved, dropped_moved = _run(network, other, surroundings)
        except Exception as error:  # of whatever is made for one size
            raise ImpureError(
                f"the network computes a batch of {examples} examples but not one of {len(places)} "
                f"({error}): how many a rank holds depends on the grid. Compute any number of "
                f"examples {SWITCH}"
            ) from error
        for (shape, here), (_, there) in zip(dropped, dropped_moved, strict=False):
            if not _follows(here, there, examples, places):
                raise ImpureError(
                    f"dropout on an activation of shape {shape}: its first dimension does not hold "
                    f"the {examples} examples of the batch one after the other, so a mask would "
                    "belong to something else than an example and depend on the grid of ranks. Put "
                    "the batch first: batch_first=True, or transpose before and after the dropout "
                    f"{SWITCH}"
                )
        if not _follows(outputs, moved, examples, places):
            raise ImpureError(
                f"the outputs {tuple(outputs.shape)} for {examples} examples: that of an example "
                "depends on the others of its batch, or stands elsewhere than in its place of the "
                "first dimension (a mean over the batch, attention between examples, sequence "
                "first), so it would depend on how ranks share the batch. Compute each example by "
                f"itself {SWITCH}"
            )


def taken(x: Inputs, places: list[int]) -> Inputs:
    """Return the batch of the examples of ``x`` (B, ...) that stand in ``places``."""
    examples = count_examples(x)

    def take(tensor: Tensor) -> Tensor:
        holds_examples = tensor.dim() > 0 and len(tensor) == examples
        return tensor[places] if holds_examples else tensor.clone()

    return map_tensors(take, x)


def _run(
    network: nn.Module, x: Inputs, surroundings: Surroundings
) -> tuple[Tensor, list[tuple[tuple[int, ...], Tensor]]]:
    """Return the outputs without dropout, and the rows of what it would have dropped."""
    with torch.no_grad(), surroundings(), DropoutRows() as dropped:
        outputs: Tensor = network(x)
    return outputs, dropped.rows


def _second_changed(tensor: Tensor) -> Tensor:
    if tensor.dim() == 0 or len(tensor) != 2 or not tensor.is_floating_point():
        return tensor
    return torch.stack([tensor[0], 1.25 * tensor[1]])


def _follows(here: Tensor, there: Tensor, examples: int, places: list[int]) -> bool:
    """Tell whether the rows (B n, ...) of each example are in its new places."""
    if min(here.dim(), there.dim()) == 0 or len(here) == 0 or len(here) % examples:
        return False
    rows = torch.unflatten(here, 0, (examples, -1))[places].flatten(0, 1)
    if examples > 1:
        return close(there, rows)
    return len(there) == len(rows) and close(there[: len(here)], here)
