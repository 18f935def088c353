"""Raw numbers become values as their attributes say: in float64, then rounded once to float32."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from era5_files import hours, state, write_new
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.ingest.header import VariableHeader
from hpc_bnn.fields.ingest.packing import decode, packing


def decoded(
    raw: NDArray[Any], attributes: dict[str, Any], conversion: tuple[float, float] = (1.0, 0.0)
) -> NDArray[np.float32]:
    pack, _ = packing(VariableHeader("a", raw.dtype.str, (), raw.shape, attributes), conversion)
    out = np.empty(raw.shape, np.float32)
    decode(raw, pack, out)
    return out


@settings(max_examples=100, deadline=None)
@given(
    scale=st.floats(1e-4, 10) | st.floats(-10, -1e-4),
    offset=st.floats(-1e5, 1e5),
    order=st.sampled_from(["<", ">"]),
)
def test_packed_values_are_rounded_once(scale: float, offset: float, order: str) -> None:
    raw = np.arange(-32766, 32767, 77).astype(f"{order}i2").reshape(2, -1)
    raw[0, 0] = -32767
    says = {"scale_factor": scale, "add_offset": offset, "_FillValue": np.int16(-32767)}
    want = (raw.astype(np.float64) * scale + offset).astype(np.float32)
    want[0, 0] = np.nan
    np.testing.assert_array_equal(decoded(raw, says), want)


def test_units_are_folded_in() -> None:
    raw = np.array([[0, 100, -50]], np.int16)
    says = {"scale_factor": 0.5, "add_offset": 10.0}  # in degrees Celsius
    got = decoded(raw, says, conversion=(1.0, 273.15))
    np.testing.assert_array_equal(got, np.float32([[283.15, 333.15, 258.15]]))


@pytest.mark.parametrize("dtype", [">i2", ">f4"])
def test_big_endian_netcdf4(tmp_path: Path, dtype: str) -> None:
    path = write_new(tmp_path / "a.nc", hours(1))
    with netCDF4.Dataset(path, "a") as dataset:
        axes = ("valid_time", "latitude", "longitude")
        v = dataset.createVariable("u10", dtype, axes, endian="big", fill_value=-5)
        v.units = "m s-1"
        v[:] = -3
        v[0, 1, 1] = -5
    got = state(catalogue(path, variables=["u10"]))
    assert np.isnan(got[0, 1, 1])
    assert np.nanmax(got) == np.nanmin(got) == -3


def test_unsigned_numbers_of_netcdf3() -> None:
    raw = np.array([[0, 1, -1, -2]], np.int8)
    got = decoded(raw, {"_Unsigned": "true", "_FillValue": np.int8(-1)})
    np.testing.assert_array_equal(got, [[0, 1, np.nan, 254]])


@pytest.mark.parametrize("dtype", ["<f8", ">f4", ">i4", "i1", "u1"])
def test_every_type(dtype: str) -> None:
    raw = np.arange(12).astype(dtype).reshape(3, 4)
    np.testing.assert_array_equal(decoded(raw, {}), np.arange(12).reshape(3, 4))


def test_what_was_never_written_is_missing_whatever_its_scale() -> None:
    raw = np.array([[1.0, netCDF4.default_fillvals["f4"]]], np.float32)
    for says in ({}, {"scale_factor": 1e4}, {"_FillValue": np.float32(-1)}):
        assert np.isnan(decoded(raw, says)).tolist() == [[False, True]]
