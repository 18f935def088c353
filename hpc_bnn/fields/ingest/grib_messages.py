"""GRIB messages through ecCodes: what their headers say, and their values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.times import EPOCH

MISSING = 1e37  # stands for a missing value while values are unpacked
GRID = (
    "Nj", "Ni", "latitudeOfFirstGridPointInDegrees", "latitudeOfLastGridPointInDegrees",
    "longitudeOfFirstGridPointInDegrees", "longitudeOfLastGridPointInDegrees", "iScansNegatively",
)  # fmt: skip
KEYS = (
    *GRID, "offset", "totalLength", "edition", "typeOfLevel", "level", "stepType", "dataDate",
    "dataTime", "validityDate", "validityTime", "number", "gridType", "packingType",
    "jPointsAreConsecutive", "alternativeRowScanning",
)  # fmt: skip
# ecCodes looks each of these up in tables, a millisecond each; in edition 2 section 4 says which
# entry it is, and has no date.
NAMES = ("cfVarName", "cfName", "units", "name", "paramId")
ENTRY = (
    "discipline", "centre", "subCentre", "tablesVersion", "localTablesVersion", "md5Section4",
)  # fmt: skip


def messages(path: str) -> Iterator[dict[str, Any]]:
    """Yield the keys of each message, None for one that it has not.

    Raises
    ------
    ValueError
        If the file is cut off, or a grid is not a regular one of latitudes and longitudes.
    OSError
        If a message is damaged.
    """
    codes = _library(path)
    size, end = Path(path).stat().st_size, 0
    named: dict[tuple[Any, ...], dict[str, Any]] = {}
    with Path(path).open("rb") as stream, _readable(path, "its messages"):
        while True:
            handle = codes.codes_new_from_file(stream, codes.CODES_PRODUCT_GRIB, headers_only=True)
            if handle is None:
                break
            try:
                keys = {key: _get(codes, handle, key) for key in KEYS}
                entry = tuple(_get(codes, handle, key) for key in ENTRY)
                if keys["edition"] == 1 or entry not in named:
                    named[entry] = {key: _get(codes, handle, key) for key in NAMES}
                keys |= named[entry]
            finally:
                codes.codes_release(handle)
            keys["offset"] = int(keys["offset"])
            keys["number"] = keys["number"] or 0
            if keys["cfVarName"] in (None, "unknown"):
                keys["cfVarName"] = f"param{keys['paramId']}"
            _require_regular(path, keys)
            end = keys["offset"] + keys["totalLength"]
            yield keys
    if end != size:
        raise ValueError(
            f"{path}: truncated or damaged GRIB file: its last message ends at byte {end}, the "
            f"file has {size}; copy or download it again"
        )


def values_of(path: str, variable: str, stream: Any) -> NDArray[np.float64]:
    """Unpack the values of the message at the position of an open file, NaN where one is missing.

    Raises
    ------
    OSError
        If it is damaged.
    """
    codes = _library(path)
    with _readable(path, f"'{variable}'"):
        handle = codes.codes_grib_new_from_file(stream)
        try:
            codes.codes_set(handle, "missingValue", MISSING)
            values: NDArray[np.float64] = codes.codes_get_values(handle)
        finally:
            codes.codes_release(handle)
    values[values == MISSING] = np.nan
    return values


def _require_regular(path: str, keys: dict[str, Any]) -> None:
    if keys["gridType"] != "regular_ll":
        kind = "a Gaussian grid" if "gg" in keys["gridType"] else "no grid of degrees"
        raise ValueError(
            f"{path}: {_described(keys)} has gridType = {keys['gridType']}, {kind}: expected "
            "regular_ll: download it with a grid in degrees, or interpolate it"
        )
    if keys["jPointsAreConsecutive"] or keys["alternativeRowScanning"]:
        raise ValueError(
            f"{path}: {_described(keys)}: points by columns, or rows by turns (scanningMode): "
            "expected row by row; write it anew with grib_set or cdo"
        )


def _described(keys: dict[str, Any]) -> str:
    return (
        f"'{keys['cfVarName']}' ({keys['typeOfLevel']} {keys['level']}, {keys['validityDate']} "
        f"{keys['validityTime']:04d})"
    )


def seconds(keys: dict[str, Any], which: str) -> int:
    """Return "validity" or "data" (of the start) of a message in seconds since 1970."""
    date, clock = keys[f"{which}Date"], keys[f"{which}Time"]
    moment = datetime(date // 10000, date // 100 % 100, date % 100, clock // 100, clock % 100)
    return int((moment - EPOCH).total_seconds())


def _get(codes: Any, handle: int, key: str) -> Any:
    try:
        return codes.codes_get(handle, key)
    except codes.KeyValueNotFoundError:
        return None


@contextmanager
def _readable(path: str, what: str) -> Iterator[None]:
    """Name the file where ecCodes cannot read it."""
    import eccodes

    try:
        yield
    except eccodes.CodesInternalError as error:
        raise OSError(
            f"{path}: {what} cannot be read: {error}; the file is cut off or damaged: copy or "
            "download it again"
        ) from error


def _library(path: str) -> Any:
    try:
        import eccodes
    except (ImportError, RuntimeError) as error:  # without its C library: RuntimeError
        raise ValueError(
            f"{path}: a GRIB file, and the package eccodes is not here: "
            f"pip install 'hpc_bnn[grib]' ({error})"
        ) from error
    return eccodes
