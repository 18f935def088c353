"""From stored numbers to normalised values in one vectorised pass.

    value = scale * raw + offset            normalised = (value - mean) / std

are one affine map, applied as (raw - shift) * factor with coefficients computed in float64. The
subtraction loses nothing where raw numbers lie near that of the mean, so float32 gives about 1e-7
of std. The shift is a float32 too: its rounding moves all values by the same, by at most half the
distance of neighbouring float32 numbers at the mean, and drops out of differences of two steps.

Missing values are found among the raw numbers, never after scaling: _FillValue, missing_value, what
lies outside valid_range, and the netCDF default fill of values that were never written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import netCDF4
import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.ingest.header import VariableHeader

SANE = 1e28  # no normalised value is larger; what was never written is 1e36 over any std


@dataclass(frozen=True)
class Packing:
    """Describe how one variable of one file stores its values.

    dtype: of the raw numbers, after reading unsigned ones as such.
    scale, offset: to the canonical units, unit conversion included.
    fills: raw numbers that mean missing, without NaN.
    never_written: floats only: what the library puts where nothing was written; so large that it
        need not be looked for where all values are sane.
    smallest, largest: raw numbers beyond them are missing; None where there is no bound.
    declared: whether the file says that the variable may have missing values.
    """

    dtype: str
    scale: float
    offset: float
    fills: tuple[float, ...]
    never_written: float | None
    smallest: float | None
    largest: float | None
    declared: bool = True

    @cached_property
    def marks_missing(self) -> bool:
        """Whether numbers other than NaN and what was never written can mean missing."""
        return bool(self.fills) or self.smallest is not None or self.largest is not None


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
    never_written = None
    if dtype.kind == "f":  # also where the attribute names another fill value
        never_written = float(dtype.type(netCDF4.default_fillvals[dtype.str[1:]]))
        fills = [fill for fill in fills if fill != never_written]
    elif "_FillValue" not in variable.attributes and dtype.itemsize > 1 and not unsigned:
        fills.append(float(netCDF4.default_fillvals[dtype.str[1:]]))
    low, high = _valid_range(variable, dtype, unsigned=unsigned)
    named = any(name in variable.attributes for name in ("_FillValue", "missing_value"))
    declared = named or bool(fills) or low is not None or high is not None
    factor, shift = conversion
    result = Packing(
        dtype.str,
        factor * scale,
        factor * offset + shift,
        tuple(dict.fromkeys(fills)),
        never_written,
        low,
        high,
        declared,
    )
    return result, tuple(notices)


def decode(raw: NDArray[Any], pack: Packing, out: NDArray[np.float32]) -> None:
    """Fill ``out`` (H, W) with the values of raw numbers (H, W) in canonical units, NaN where they
    are missing.
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


@dataclass(frozen=True, eq=False)
class Affine:
    """Coefficients of (raw - shift) * factor for L levels, each (L, 1, 1); None where the operation
    would change nothing.
    """

    levels: int

    shift: NDArray[Any] | None
    factor: NDArray[np.float32] | None

    @cached_property
    def floats(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both for L levels as float32 (L,), for raw numbers of that type."""
        levels = self.levels
        shift = np.zeros(levels) if self.shift is None else self.shift
        factor = np.ones(levels) if self.factor is None else self.factor
        return shift.astype(np.float32).reshape(-1), factor.astype(np.float32).reshape(-1)


def affine(
    pack: Packing,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    *,
    scaling: tuple[NDArray[np.float64], ...] | None = None,
) -> Affine:
    """Compute the coefficients for channels of mean and std (L,); 0 and 1 for physical values.

    scaling: scale and offset (L,) of each, in place of those of `pack`.
    """
    scale, offset = scaling or (pack.scale, pack.offset)
    shift: NDArray[Any] = np.asarray((mean - offset) / scale, np.float64)
    dtype = np.dtype(pack.dtype)
    if (
        dtype.itemsize <= 2 or dtype.newbyteorder("=") == np.float32
    ):  # wider numbers are subtracted in float64
        shift = shift.astype(np.float32)
    factor = (scale / std).astype(np.float32)
    return Affine(
        len(factor),
        shift.reshape(-1, 1, 1) if shift.any() else None,
        factor.reshape(-1, 1, 1) if (factor != 1).any() else None,
    )


def unpack(
    raw: NDArray[Any],
    pack: Packing,
    coefficients: Affine,
    out: NDArray[np.float32],
    *,
    written: bool = False,
) -> bool:
    """Fill `out` (L, H, W) from raw numbers (L, H, W), which may be overwritten; missing values
    become NaN. Tell whether all values are numbers smaller than `SANE`.

    written: take floats as written; values that never were then come out larger than `SANE`.
    """
    _unpack(raw, pack, coefficients, out, written=written)
    # Sums of channels show it, since what was never written has one sign in a channel.
    return bool((np.abs(np.einsum("lhw->l", out)) < SANE).all())


def _unpack(
    raw: NDArray[Any],
    pack: Packing,
    coefficients: Affine,
    out: NDArray[np.float32],
    *,
    written: bool,
) -> None:
    if raw.dtype.kind == "i" and "u" in pack.dtype:  # _Unsigned
        raw = raw.view(raw.dtype.str.replace("i", "u"))
    missing = None
    if pack.marks_missing or not written:
        missing = missing_values(raw, pack, written=written)
    shift, factor = coefficients.shift, coefficients.factor
    if shift is not None and factor is not None:
        # Raw numbers are at hand in the processor's cache: `out` is written once, if that can be.
        between = raw if raw.dtype == out.dtype and raw.flags.writeable else out
        np.subtract(raw, shift, out=between, casting="same_kind")
        np.multiply(between, factor, out=out)
    elif shift is not None:
        np.subtract(raw, shift, out=out, casting="same_kind")
    elif factor is not None:
        np.multiply(raw, factor, out=out, casting="same_kind")
    else:
        np.copyto(out, raw, casting="same_kind")
    if missing is not None:
        out[missing] = np.nan


def missing_values(
    raw: NDArray[Any], pack: Packing, *, written: bool = False
) -> NDArray[np.bool_] | None:
    """Find missing values by their raw numbers, NaN apart; None where there are none."""
    found: NDArray[np.bool_] | None = None
    dtype = raw.dtype
    look_for = pack.fills
    if pack.never_written is not None and not written:
        look_for = (*look_for, pack.never_written)
    for fill in look_for:
        equal = raw == dtype.type(fill)
        found = equal if found is None else found | equal
    if pack.smallest is not None:
        below = raw < dtype.type(pack.smallest)
        found = below if found is None else found | below
    if pack.largest is not None:
        above = raw > dtype.type(pack.largest)
        found = above if found is None else found | above
    return found if found is not None and found.any() else None


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
