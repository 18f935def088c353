"""Which examples a step sees: pure functions of (seed, step), the same on every rank and after any
resume.

An epoch is a keyed random order of the N examples cut into floor(N / B) global batches; what is
left over is seen in other epochs. A data rank takes its positions of the global batch, so all ranks
always hold equally many examples.
"""

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import Purpose, Stream, permutation


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of full global batches in an epoch.

    Raises
    ------
    ValueError
        If there are fewer examples than one batch needs.
    """
    if num_examples < batch_size:
        raise ValueError(
            f"train.batch_size = {batch_size}: the training set has only {num_examples} "
            "examples; lower it"
        )
    return num_examples // batch_size


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order (N,) int64 in which ``epoch`` visits the examples."""
    return permutation(Stream(seed, Purpose.ORDER, epoch), num_examples)


def in_turn(num_examples: int, *, data_rank: int, data_ranks: int) -> Tensor:
    """Return this data rank's part (n,) int64 of a pass over all examples in order: contiguous,
    sizes differ by at most 1.
    """
    place = part(num_examples, data_rank, data_ranks)
    return torch.arange(place.start, place.stop)


def part(total: int, number: int, parts: int) -> range:
    """Return what belongs to part `number` of `total` things: contiguous, sizes differ by at most
    1.
    """
    return range(total * number // parts, total * (number + 1) // parts)
