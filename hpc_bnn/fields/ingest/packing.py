"""From stored numbers to values: ``value = scale * raw + offset`` in float64, rounded to float32.

Missing values are found among the raw numbers, never after scaling: ``_FillValue``,
``missing_value``, what lies outside ``valid_range``, and the default fill of netCDF, which stands
where nothing was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.ingest.header import VariableHeader


@dataclass(frozen=True)
class Packing:
    """Describe how one variable of one file stores its values.

    dtype: of the raw numbers, after reading unsigned ones as such.
    scale, offset: to the canonical units, unit conversion included.
    fills: raw numbers that mean missing, without NaN; of floats also what the library puts where
        nothing was written.
    smallest, largest: raw numbers beyond them are missing; None where there is no bound.
    declared: whether the file says that the variable may have missing values.
    """

    dtype: str
    scale: float
    offset: float
    fills: tuple[float, ...]
    smallest: float | None
    largest: float | None
    declared: bool = True


def packing(
    variable: VariableHeader, conversion: tuple[float, float]
) -> tuple[Packing, tuple[str, ...]]:
    """Read the packing from the attributes; also return what is odd about them.

    conversion: factor and offset from the units of the file to the canonical ones.

    Raises
    ------
    ValueError
        If the values are no numbers or the scale is none.
    """
    dtype = np.dtype(variable.dtype)
    notices: list[str] = []
    unsigned = variable.text("_Unsigned").lower() == "true" and dtype.kind == "i"
    if unsigned:
        dtype = np.dtype(dtype.str.replace("i", "u"))
    if dtype.kind not in "iuf":
        raise ValueError(f"values of type {dtype}: expected numbers")
    scale = _number(variable, "scale_factor", 1.0)
    offset = _number(variable, "add_offset", 0.0)
    if scale == 0 or not np.isfinite([scale, offset]).all():
        raise ValueError(
            f"scale_factor = {scale}, add_offset = {offset}: expected finite numbers and a scale "
            "other than 0; correct the attributes"
        )
    fills: list[float] = []
    for name in ("_FillValue", "missing_value"):
        for value in np.atleast_1d(np.asarray(variable.attributes.get(name, []))):
            if isinstance(value, str | bytes):
                notices.append(f"{name} = {value!r} is no number and is ignored")
            elif np.isnan(value):
                if dtype.kind != "f":
                    notices.append(f"{name} = NaN cannot occur in {dtype} values and is ignored")
            elif (raw := _as_raw(value, dtype, unsigned=unsigned)) is None:
                notices.append(f"{name} = {value} cannot occur in {dtype} values and is ignored")
            else:
                fills.append(raw)
    is_float = dtype.kind == "f"  # has the default also where the attribute names another
    has_default = "_FillValue" not in variable.attributes and dtype.itemsize > 1 and not unsigned
    if is_float or has_default:
        fills.append(float(dtype.type(netCDF4.default_fillvals[dtype.str[1:]])))
    low, high = _valid_range(variable, dtype, unsigned=unsigned)
    named = any(name in variable.attributes for name in ("_FillValue", "missing_value"))
    declared = named or (has_default and not is_float) or low is not None or high is not None
    factor, shift = conversion
    result = Packing(
        dtype.str,
        factor * scale,
        factor * offset + shift,
        tuple(dict.fromkeys(fills)),
        low,
        high,
        declared,
    )
    return result, tuple(notices)


def decode(raw: NDArray[Any], pack: Packing, out: NDArray[np.float32]) -> None:
    """Fill ``out`` with the values of raw numbers of the same shape in canonical units, NaN where
    they are missing.
    """
    if raw.dtype.kind == "i" and "u" in pack.dtype:  # _Unsigned
        raw = raw.view(raw.dtype.str.replace("i", "u"))
    with np.errstate(over="ignore"):  # of the number that stands for "never written"
        if pack.scale == 1 and pack.offset == 0:
            np.copyto(out, raw, casting="same_kind")
        else:
            np.copyto(out, raw * np.float64(pack.scale) + pack.offset, casting="same_kind")
    missing = missing_values(raw, pack)
    if missing is not None:
        out[missing] = np.nan


def missing_values(raw: NDArray[Any], pack: Packing) -> NDArray[np.bool_] | None:
    """Find missing values by their raw numbers, NaN apart; None where there are none."""
    number = raw.dtype.type
    checks = [raw == number(fill) for fill in pack.fills]
    if pack.smallest is not None:
        checks.append(raw < number(pack.smallest))
    if pack.largest is not None:
        checks.append(raw > number(pack.largest))
    missing: NDArray[np.bool_] = np.logical_or.reduce(checks) if checks else np.zeros(0, bool)
    return missing if missing.any() else None


def _number(variable: VariableHeader, name: str, default: float) -> float:
    value = variable.attributes.get(name, default)
    try:
        return float(np.asarray(value).reshape(-1)[0])
    except (ValueError, IndexError):
        raise ValueError(f"{name} = {value!r}: expected a number; correct the attribute") from None


def _as_raw(value: Any, dtype: np.dtype[Any], *, unsigned: bool) -> float | None:
    """Return an attribute as the raw number it stands for, None where the type cannot hold it."""
    number = float(value)
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            held = float(dtype.type(number))
        return held if np.isfinite(held) else None
    if unsigned and number < 0:
        number += 2 ** (8 * dtype.itemsize)
    info = np.iinfo(dtype)
    return number if number == int(number) and info.min <= number <= info.max else None


def _valid_range(
    variable: VariableHeader, dtype: np.dtype[Any], *, unsigned: bool
) -> tuple[float | None, float | None]:
    """Read valid_range, valid_min, valid_max; they count where the raw type can hold them."""
    both = np.atleast_1d(np.asarray(variable.attributes.get("valid_range", [])))
    low = variable.attributes.get("valid_min", both[0] if len(both) == 2 else None)
    high = variable.attributes.get("valid_max", both[1] if len(both) == 2 else None)
    bounds: list[float | None] = []
    for bound in (low, high):
        value = np.asarray(np.nan if bound is None else bound)
        # A floating bound of packed integers is in unpacked units in many files: not comparable.
        usable = value.ndim == 0 and value.dtype.kind in ("iuf" if dtype.kind == "f" else "iu")
        usable = usable and bool(np.isfinite(value))
        bounds.append(_as_raw(value, dtype, unsigned=unsigned) if usable else None)
    return bounds[0], bounds[1]
