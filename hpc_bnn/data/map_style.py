"""Read a map-style data set of pairs (x, y), such as torch's, in batches; say what else it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from hpc_bnn.data.source import Examples

WANTED = (
    "expected a pair (x, y) of an input and a target; give a data set whose items are pairs (of "
    "two tensors X and Y: torch.utils.data.TensorDataset(X, Y))"
)


def as_examples(data: Any) -> Examples:
    """Return `data` as it is where it reads batches itself, else a reader of its pairs.

    Raises
    ------
    ValueError
        If it has no length or cannot be read by index.
    """
    kind = type(data).__name__
    if isinstance(data, DataLoader):
        raise ValueError(
            "a DataLoader makes batches of its own, another order on every grid of ranks; give "
            "its data set, hb.Batches(loader.dataset, ...)"
        )
    indexed = hasattr(data, "__getitem__")
    if callable(getattr(data, "batch", None)) and not indexed:
        examples: Examples = data
        return examples
    if isinstance(data, IterableDataset) or not indexed:
        raise ValueError(
            f"{kind}: cannot be read by index, which the keyed order needs; expected a map-style "
            "data set with __len__ and __getitem__; list(...) makes one of a finite iterator"
        )
    if isinstance(data, Mapping):
        raise ValueError(
            f"a {kind} of {', '.join(map(repr, data))}: expected examples by position; {WANTED}"
        )
    return MapStyle(data)


class MapStyle:
    """Examples of a map-style data set; x may be a tuple, list or dict of tensors.

    Raises
    ------
    ValueError
        From `batch`, if an example is no pair, is missing, or does not fit the others.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        try:
            return len(self.dataset)
        except (TypeError, NotImplementedError) as error:
            raise ValueError(
                f"{type(self.dataset).__name__}: has no length ({error}); expected a data set "
                "with __len__, the number of its examples"
            ) from error

    def batch(self, indices: Tensor) -> tuple[Any, Tensor]:
        """Read the examples at `indices` (B,) and put them together as torch's DataLoader does."""
        names = indices.tolist()
        xs, ys = zip(*(self._pair(i) for i in names), strict=True)
        for i, y in zip(names, ys, strict=True):
            if isinstance(y, tuple | list | Mapping):
                raise ValueError(
                    f"y of example {i} is {describe(y)}: expected one tensor, array or number; "
                    "stack its parts"
                )
        return _together("x", names, xs), torch.as_tensor(_together("y", names, ys))

    def _pair(self, index: int) -> tuple[Any, Any]:
        try:
            item = self.dataset[index]
        except (IndexError, KeyError, NotImplementedError) as error:
            raise ValueError(
                f"example {index} of the {len(self)} that {type(self.dataset).__name__} says it "
                f"holds cannot be read: {type(error).__name__}: {error}; expected the examples 0 "
                f"to {len(self) - 1}; correct its __len__ or __getitem__"
            ) from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"example {index} of the data set is {describe(item)}: {WANTED}")
        return item[0], item[1]


def _together(name: str, names: Sequence[int], values: Sequence[Any]) -> Any:
    """Stack the x or the y of some examples along a new first dimension."""
    for i, value in zip(names, values, strict=True):
        for leaf in leaves(value):
            if not isinstance(leaf, Tensor | np.ndarray | np.generic | int | float | complex):
                raise ValueError(
                    f"{name} of example {i} is {describe(value)}: expected tensors, arrays or "
                    "numbers; convert it in the data set"
                )
    try:
        return default_collate(list(values))
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        first = describe(values[0])
        other = next((i for i, v in enumerate(values) if describe(v) != first), 0)
        raise ValueError(
            f"{name} of examples {names[0]} and {names[other]} are {first} and "
            f"{describe(values[other])}: cannot be stacked ({str(error).splitlines()[0]}); "
            "expected the same shapes in all examples; pad or crop them in the data set"
        ) from error


def leaves(value: Any) -> Iterator[Any]:
    """Yield the parts of a value that are no tuple, list or dict themselves."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)
    else:
        yield value


def describe(value: Any) -> str:
    """Say in a few words what an example is: types, and shapes of tensors and arrays."""
    if isinstance(value, Mapping):
        parts = ", ".join(f"{key!r}: {describe(part)}" for key, part in value.items())
        return f"a {type(value).__name__} {{{parts}}}"
    if isinstance(value, tuple | list):
        parts = ", ".join(describe(part) for part in value[:6])
        return f"a {type(value).__name__} of {len(value)} ({parts})"
    if isinstance(value, Tensor | np.ndarray):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{type(value).__name__} {tuple(value.shape)} {dtype}"
    return type(value).__name__
