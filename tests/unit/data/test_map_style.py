"""Data sets of other items than pairs of tensors: what works, and what the one line says."""

from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hpc_bnn.data import Batches
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World

WORLD = World(Grid(1, 1, 0), torch.device("cpu"))
Pair = namedtuple("Pair", ["image", "label"])
X = torch.arange(48.0).reshape(8, 6)


def first(data: Any, batch_size: int = 4) -> tuple[Any, Tensor]:
    batches = Batches(data, batch_size=batch_size, world=WORLD, seed=1)
    return next(iter(batches))


ORDER = Batches(TensorDataset(X, X), batch_size=4, world=WORLD, seed=1).indices(0)

PAIRS: dict[str, Callable[[int], Any]] = {
    "tuple": lambda i: (X[i], i),
    "list": lambda i: [X[i], i],
    "named": lambda i: Pair(X[i], i),
    "array": lambda i: (X[i].numpy(), np.int64(i)),
    "array of no dimension": lambda i: (X[i].numpy(), np.array(i)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_pairs_of_any_kind_are_stacked(kind: str) -> None:
    x, y = first([PAIRS[kind](i) for i in range(8)])
    assert torch.equal(x, X[ORDER])
    assert torch.equal(y, ORDER) and y.dtype == torch.int64


def test_numbers_are_inputs_and_targets() -> None:
    x, y = first([(float(i), i % 2 == 0) for i in range(8)])
    assert torch.equal(x, ORDER.double()) and torch.equal(y, ORDER % 2 == 0)


def test_an_input_of_several_tensors_keeps_its_structure() -> None:
    x, y = first([((X[i], {"length": i}), i) for i in range(8)])
    assert torch.equal(x[0], X[ORDER]) and torch.equal(x[1]["length"], ORDER)
    assert torch.equal(y, ORDER)


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Examples without an index."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter([(X[0], 0)] * 8)


class Unsized(Dataset[tuple[Tensor, int]]):
    """Examples without a number."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], index


class Boasting(Unsized):
    """More examples than there are."""

    def __len__(self) -> int:
        return 100


class Broken(Unsized):
    """A length that fails."""

    def __len__(self) -> int:
        raise TypeError("unknown as yet")


REFUSED: dict[str, tuple[Any, str]] = {
    "dicts": (
        [{"image": X[0], "label": 1}] * 8,
        r"is a dict \{'image': Tensor \(6,\) float32, 'label': int\}: expected a pair \(x, y\)",
    ),
    "triples": ([(X[0], 1, 0)] * 8, r"is a tuple of 3 \(Tensor \(6,\) float32, int, int\): expe"),
    "x alone": (list(X), r"is Tensor \(6,\) float32: expected a pair"),
    "a tensor": (X, r"is Tensor \(6,\) float32: expected a pair"),
    "an array": (X.numpy(), r"is ndarray \(6,\) float32: expected a pair"),
    "x of one number": (torch.arange(8), r"is Tensor \(\) int64: expected a pair"),
    "two tensors": ((X[:4], X[:4]), r"TensorDataset\(X, Y\)"),
    "text": ([("a cat", 1)] * 8, r"x of example \d is str: expected tensors, arrays or numbers"),
    "names of classes": ([(X[0], "cat")] * 8, r"y of example \d is str: expected tensors"),
    "nothing": ([(X[0], None)] * 8, r"y of example \d is NoneType: expected tensors"),
    "several targets": ([(X[0], (1, 2))] * 8, r"y of example \d is a tuple of 2 \(int, int\)"),
    "shapes that differ": (
        [(X[0, : 2 + i % 2], i) for i in range(8)],
        r"x of examples \d and \d are Tensor \(\d,\) float32 and .*: cannot be stacked",
    ),
    "columns": ({"x": X, "y": X}, r"a dict of 'x', 'y': expected examples by position"),
    "a loader": (DataLoader(TensorDataset(X, X)), r"DataLoader .*loader\.dataset"),
    "a stream": (Stream(), r"Stream: cannot be read by index.*map-style"),
    "a generator": (((X[0], 0) for _ in range(8)), r"generator: cannot be read by index"),
    "no length": (Unsized(), r"Unsized: has no length .*__len__"),
    "a length that fails": (Broken(), r"Broken: has no length \(unknown as yet\)"),
    "too few": (Boasting(), r"example \d+ of the 100 that Boasting says it holds cannot be read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_pair_is_named(kind: str) -> None:
    data, words = REFUSED[kind]
    with pytest.raises(ValueError, match=words) as error:
        first(data, 2)
    assert "\n" not in str(error.value)
