"""Real ERA5 files: the same values as netCDF4 and xarray give, or refused by name."""

import os
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
import xarray
from era5_files import state
from numpy.typing import NDArray

import hpc_bnn
from hpc_bnn.data import data_set
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.report import defects, describe
from hpc_bnn.fields.times import text
from hpc_bnn.fields.values import Values

FOLDER = Path(
    os.environ.get("HPC_BNN_TEST_DATA")
    or Path(hpc_bnn.__file__).resolve().parents[1] / ".." / "shared" / "data"
)
# File -> variables in it, and the first time.
WITH_TIME = {
    "cdslegacy_era5_2t_1.nc": (["t2m"], "2021-03-01T12:00"),
    "cdslegacy_era5_2t_2.nc": (["t2m"], "2021-03-02T12:00"),
    "cdslegacy_tuv_pl.nc": (["t", "u", "v"], "2018-08-01T12:00"),
    "climetlab_test.nc": (["t2m", "msl"], "2020-05-13T12:00"),
    "earthkit_test.nc": (["t2m", "msl"], "2020-05-13T12:00"),
    "era5_t2m_global_0p25_20170101T12.nc": (["t2m"], "2017-01-01T12:00"),
    "era5_u10v10_25x25x13_20230101.nc": (["u10", "v10"], "2023-01-01T00:00"),
}
WITHOUT_TIME = {
    "pst_era5_msl_2025120100_2.5x2.5.nc": ["msl"],
    "pst_era5_uv850_2025120100_2.5x2.5.nc": ["u", "v"],
    "pst_era5_vo850_2025120100_2.5x2.5.nc": ["vo"],
}


def real(name: str) -> Path:
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {FOLDER} (set HPC_BNN_TEST_DATA)")
    return path


def expected(path: Path, variable: str) -> NDArray[np.float64]:
    """Read a variable in netCDF4's auto mode (..., H, W), north to south, from longitude 0 or as
    stored where the region is in one piece.
    """
    with netCDF4.Dataset(path) as dataset:
        v = dataset.variables[variable]
        values = np.ma.filled(v[...].astype(np.float64), np.nan)
        lat = dataset.variables[v.dimensions[-2]][:]
        lon = dataset.variables[v.dimensions[-1]][:]
    values = values[..., ::-1, :] if lat[0] < lat[-1] else values
    if len(lon) == 1440:  # the only file from -180 on
        values = np.roll(values, 720, axis=-1)
    return values


@pytest.mark.parametrize("name", WITH_TIME)
def test_values_and_times(name: str) -> None:
    path = real(name)
    variables, first = WITH_TIME[name]
    made = catalogue(path)
    assert text(int(made.times[0])) == first
    assert {c.variable for c in made.channels} == set(variables)
    for at in (0, len(made.times) - 1):
        got = state(made, at)
        for variable in variables:
            want = expected(path, variable)
            want = want[at] if want.ndim > 2 else want
            want = want if want.ndim == 3 else want[None]
            own = [i for i, c in enumerate(made.channels) if c.variable == variable]
            np.testing.assert_allclose(got[own], want, rtol=3e-7, atol=1e-6)
    assert any("channels" in line for line in describe(made))
    assert made.grid.latitude[0] > made.grid.latitude[-1]


@pytest.mark.parametrize("name", WITHOUT_TIME)
def test_files_without_time_hold_static_fields_only(name: str) -> None:
    path = real(name)
    made = catalogue(path)
    assert [c.name for c in made.static] == WITHOUT_TIME[name]
    for got, variable in zip(Values(made).static(), WITHOUT_TIME[name], strict=True):
        np.testing.assert_array_equal(got, expected(path, variable).astype(np.float32))
    assert any("has no time" in defect for defect in defects(made))
    with pytest.raises(ValueError, match="has no time in any file"):
        catalogue(path, variables=WITHOUT_TIME[name])


def test_two_packings_are_each_read_with_their_own_scale() -> None:
    real("cdslegacy_era5_2t_1.nc")
    made = catalogue(FOLDER / "cdslegacy_era5_2t_*.nc")
    assert len(made.times) == 2
    for at in (0, 1):
        with xarray.open_dataset(FOLDER / f"cdslegacy_era5_2t_{at + 1}.nc") as file:
            np.testing.assert_allclose(state(made, at)[0], file.t2m.values[0], rtol=3e-7)


def test_levels_by_value() -> None:
    path = real("cdslegacy_tuv_pl.nc")
    made = catalogue(path, variables=["v", "t"], levels=[300, 850])
    with xarray.open_dataset(path) as file:
        for got, channel in zip(state(made), made.channels, strict=True):
            want = file[channel.variable].sel(level=channel.level_hpa)
            np.testing.assert_allclose(got, want[0], rtol=3e-7, atol=1e-6)
    assert [c.vector for c in made.channels] == [True, True, False, False]
    assert made.grid.periodic


def test_coordinates_equal_those_of_xarray() -> None:
    path = real("era5_t2m_global_0p25_20170101T12.nc")
    made = catalogue(path)
    assert made.grid.periodic
    with xarray.open_dataset(path) as file:
        at = file.t2m.sel(lat=48.25, lon=-122.5).item()
    row = int(np.argmin(abs(made.grid.latitude - 48.25)))
    column = int(np.argmin(abs(made.grid.longitude - 237.5)))
    assert state(made)[0, row, column] == np.float32(at)


def test_files_that_do_not_belong_together_are_refused() -> None:
    real("climetlab_test.nc")
    with pytest.raises(ValueError, match=r"earthkit_test\.nc and .*climetlab_test\.nc have diff"):
        catalogue(FOLDER / "*t[lh]*_test.nc")


def test_a_table_is_no_field() -> None:
    path = real("recycle_anonymized_dataset.csv")
    with pytest.raises(ValueError, match=r"recycle_anonymized_dataset\.csv: no data file"):
        catalogue(path)


def test_windows_of_a_real_region() -> None:
    path = real("era5_u10v10_25x25x13_20230101.nc")
    source = data_set("era5")(
        path=str(path),
        variables=["u10", "v10"],
        step_hours=1,
        history=2,
        train=("2023-01-01T00:00", "2023-01-01T15:00"),
        validation=("2023-01-01T16:00", "2023-01-01T19:00"),
        test=("2023-01-01T20:00", "2023-01-02"),
    )
    assert source.input_shape == (2 * 2 + 4, 25, 13)
    assert [len(p) for p in (source.train, source.validation, source.test)] == [14, 2, 3]
    x, y = source.train.batch(torch.tensor([0, 13]))
    fields = source.fields
    assert fields is not None
    assert not fields.periodic
    want = torch.from_numpy(np.stack([expected(path, "u10"), expected(path, "v10")], 1))
    for row, first in enumerate((0, 13)):
        shaped = fields.state_mean[:, None, None], fields.state_std[:, None, None]
        now = shaped[0] + shaped[1] * x[row, 2:4]
        torch.testing.assert_close(now, want[first + 1], rtol=1e-5, atol=1e-5)
        after = now + fields.tendency_std[:, None, None] * y[row]
        torch.testing.assert_close(after, want[first + 2], rtol=1e-5, atol=1e-5)
