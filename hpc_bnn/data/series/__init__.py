"""Time series: CSV files read strictly, cut into windows, split by time."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Give scripts of version 0.1 the function ``series``; nothing is read before it is asked."""
    if name == "series":
        return importlib.import_module("hpc_bnn.data.series.csv_series").series
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
