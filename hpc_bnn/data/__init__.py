"""Data sets and the order in which ranks read them. To add one: a file here and a line in
DATA_SETS.
"""

import importlib
from collections.abc import Callable

from hpc_bnn.data.augment import AUGMENTATIONS
from hpc_bnn.data.batches import Batches
from hpc_bnn.data.source import Examples, InMemory, Source

DATA_SETS = {
    "cifar10": "hpc_bnn.data.images.cifar10",
    "digits": "hpc_bnn.data.images.digits",
    "era5": "hpc_bnn.fields.era5",
    "series": "hpc_bnn.data.series.csv_series",
    "synthetic_series": "hpc_bnn.data.series.synthetic",
}


def data_set(name: str) -> Callable[..., Source]:
    """Return the function that opens a data set: it has the name of the set in its module, which
    is imported here and no earlier.
    """
    function: Callable[..., Source] = getattr(importlib.import_module(DATA_SETS[name]), name)
    return function


def without_files(name: str) -> Callable[..., Source] | None:
    """Return the function that knows the shapes of a data set on a grid of ``rows`` x ``columns``
    without any file, ``NAME_without_files(rows, columns, **options)``; None where there is none.
    """
    module = importlib.import_module(DATA_SETS[name])
    function: Callable[..., Source] | None = getattr(module, f"{name}_without_files", None)
    return function


__all__ = [
    "AUGMENTATIONS",
    "DATA_SETS",
    "Batches",
    "Examples",
    "InMemory",
    "Source",
    "data_set",
    "without_files",
]
