"""Data sets and the order in which ranks read them. To add one: a file here and a line in
DATA_SETS.
"""

from collections.abc import Callable

from hpc_bnn.data.augment import AUGMENTATIONS
from hpc_bnn.data.batches import Batches
from hpc_bnn.data.cifar10 import cifar10
from hpc_bnn.data.digits import digits
from hpc_bnn.data.era5 import era5
from hpc_bnn.data.series import series
from hpc_bnn.data.source import Examples, InMemory, Source
from hpc_bnn.data.synthetic_series import synthetic_series

DATA_SETS: dict[str, Callable[..., Source]] = {
    "cifar10": cifar10,
    "digits": digits,
    "era5": era5,
    "series": series,
    "synthetic_series": synthetic_series,
}

__all__ = ["AUGMENTATIONS", "DATA_SETS", "Batches", "Examples", "InMemory", "Source"]
