"""Proof that all ranks hold the same data set: an example of equal index is the same everywhere.

Ranks take their parts of a batch by index. Where the data set is put in another order on every rank
(``random_split`` or a shuffle without a seed, a list of files as the file system gives it), they
train on examples that others hold for their test, and nothing else would show it: the batches of
data ranks must differ anyway.

A few examples are read on every rank, under the same seeds of torch, numpy and Python, whose states
are put back; so a random transform gives the same view on all ranks. Of ``Subset`` all indices are
compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Subset

from hpc_bnn.data.map_style import MapStyle, as_examples, leaves
from hpc_bnn.data.source import Examples
from hpc_bnn.group import Group

log = logging.getLogger(__name__)

COMPARED = 8  # examples; two random orders agree on all of them with probability N**-8


@dataclass(frozen=True)
class _Facts:
    """What a rank says of its data set.

    examples: index of some of them, and a digest of each of their tensors; None for a tensor that
    each read gives differently, whatever the seeds.
    order: digest of the indices of its subsets.
    varies: the first example that two reads give differently.
    """

    count: int
    examples: tuple[tuple[int, list[str | None]], ...]
    order: str
    varies: int | None


def same_examples(data: Any, all_ranks: Group) -> Examples:
    """Collective: return ``data`` as examples, proved to be the same in the same order on every
    rank.

    Examples that say ``agreed = True`` are not read, their number is compared.

    Raises
    ------
    ValueError
        On every rank, if they differ or one cannot read its own.
    """
    if all_ranks.size == 1:
        return as_examples(data)
    failure: Exception | None = None
    mine: _Facts | None = None
    try:
        examples = as_examples(data)
        mine = _facts(examples)
    except Exception as error:  # whatever it is, the other ranks must hear of it
        failure = error
    text = None if failure is None else f"{type(failure).__name__}: {failure}"
    said = all_ranks.first_text(text, name="data set")
    if failure is not None:
        raise failure
    if said is not None:
        raise ValueError(f"the data set of world rank {said[0]} cannot be read: {said[1]}")
    assert mine is not None
    difference = _difference(all_ranks.broadcast(mine, name="data set"), mine)
    said = all_ranks.first_text(difference or None, name="data set")
    if said is not None:
        raise ValueError(
            "the examples of equal index differ between ranks: "
            f"{said[1].format(a='world rank 0', b=f'world rank {said[0]}')}; every rank must hold "
            "the same data set in the same order: give random_split "
            "generator=torch.Generator().manual_seed(0), seed what shuffles, sort lists of files, "
            "and leave it to hb.Batches to share the examples out"
        )
    varies = all_ranks.first_text(
        None if mine.varies is None else str(mine.varies), name="data set"
    )
    if varies is not None and all_ranks.rank == 0:
        log.warning(
            "example %s of the data set is another one at every read (random transforms?): the "
            "run is not the same on another grid of ranks or after a resume, and sample ranks "
            "will be refused where their batches differ; make random views with augment= of "
            "hb.Step (hpc_bnn.data.augment)",
            varies[1],
        )
    return examples


def _difference(first: _Facts, other: _Facts) -> str:
    """Say how two ranks differ; "" where they do not."""
    if first.count != other.count:
        return f"{{a}} holds {first.count} of them, {{b}} {other.count}"
    for (index, ours), (_, theirs) in zip(first.examples, other.examples, strict=True):
        known = [a == b for a, b in zip_longest(ours, theirs, fillvalue="") if None not in (a, b)]
        if not all(known):
            return f"example {index} of {first.count} is another one on {{b}} than on {{a}}"
    return "" if first.order == other.order else "a Subset has other indices on {b} than on {a}"


def _facts(examples: Examples) -> _Facts:
    count = len(examples)
    agreed = count == 0 or getattr(examples, "agreed", False)
    number = 0 if agreed else min(COMPARED, count)
    read, varies = [], None
    for i in range(number):
        index = i * count // number
        digests: list[str | None] = list(_digests(examples, index, seed=0))
        if _digests(examples, index, seed=1) != digests:
            varies = index if varies is None else varies
            again = _digests(examples, index, seed=0)
            digests = [a if a == b else None for a, b in zip(digests, again, strict=False)]
        read.append((index, digests))
    order = repr(_order(examples.dataset)) if isinstance(examples, MapStyle) else ""
    return _Facts(count, tuple(read), order, varies)


def _digests(examples: Examples, index: int, *, seed: int) -> list[str]:
    """Return a digest of bits, type and shape of each tensor of one example."""
    with _seeded(seed):
        batch = examples.batch(torch.tensor([index]))
    digests = []
    for leaf in leaves(batch):
        tensor = torch.as_tensor(leaf).detach().cpu().contiguous()
        digest = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        digests.append(digest.hexdigest())
    return digests


def _order(dataset: Any) -> Any:
    """Return digests of the indices of all subsets in a data set."""
    if isinstance(dataset, Subset):
        indices: Any = dataset.indices  # an array, a tensor, or any sequence of keys
        text = repr(indices.tolist() if hasattr(indices, "tolist") else list(indices))
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return digest, _order(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        return [_order(part) for part in dataset.datasets]
    return None


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch, numpy and Python, and put their states back at the end."""
    tensors, python = torch.get_rng_state(), random.getstate()
    arrays = np.random.get_state()  # noqa: NPY002  what a user's transforms draw from
    try:
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs, too
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(tensors)
        np.random.set_state(arrays)  # noqa: NPY002
        random.setstate(python)
