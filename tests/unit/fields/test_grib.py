"""GRIB files: what cfgrib reads is read, and what is incomplete or of another kind is refused."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from store_files import LEVELS, TIMES, WANTED, grib, toy, toy_data, write_message

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.reader import PackReader
from hpc_bnn.fields.values import Values

eccodes = pytest.importorskip("eccodes", reason="no eccodes: pip install 'hpc_bnn[grib]'")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("toy") / "source")


@pytest.fixture(scope="module")
def data(source: Path) -> xr.Dataset:
    return toy_data(source)


def write(path: Path, data: xr.Dataset, times: Any = (0, 1), **keys: Any) -> Path:
    """Write t at two levels and t2m."""
    with path.open("wb") as file:
        for at in times:
            for level in LEVELS:
                field = data["t"].isel(time=at).sel(level=level)
                write_message(file, field, "t", level=level, **keys)
            write_message(file, data["t2m"].isel(time=at), "t2m", **keys)
    return path


@pytest.mark.parametrize("edition", [1, 2])
def test_values_are_those_that_cfgrib_reads(source: Path, tmp_path: Path, edition: int) -> None:
    path = grib(source, tmp_path / "fields.grib", edition=edition)
    made = catalogue(path, **WANTED)
    got = Values(made).read(range(len(made.channels)), 0, TIMES)
    levels = {"typeOfLevel": "isobaricInhPa"}
    options = {"indexpath": "", "filter_by_keys": levels}
    with xr.open_dataset(path, engine="cfgrib", backend_kwargs=options) as oracle:
        for name in ("z", "t", "u", "v"):
            for level in LEVELS:
                want = oracle[name].sel(isobaricInhPa=level).values
                np.testing.assert_array_equal(got[:, made.names.index(f"{name}{level:g}")], want)
        assert made.times.tolist() == oracle["time"].values.astype("M8[s]").astype(int).tolist()
    assert made.parts[0].file.flavour == f"GRIB edition {edition}"


def test_packed_values_and_missing_ones(data: xr.Dataset, tmp_path: Path) -> None:
    field = data["t2m"].isel(time=0).copy()
    field[2, 3] = 1e20
    with (tmp_path / "a.grib").open("wb") as file:
        write_message(
            file, field, "t2m", packingType="grid_ccsds", bitsPerValue=16, bitmapPresent=1,
            missingValue=float(np.float32(1e20)),
        )  # fmt: skip
    got = Values(catalogue(tmp_path / "a.grib")).read([0], 0, 1)[0, 0]
    assert np.argwhere(np.isnan(got)).tolist() == [[2, 3]]
    np.testing.assert_allclose(got, np.where(np.isnan(got), np.nan, field.values), atol=0.01)


def test_heights_become_geopotential(data: xr.Dataset, tmp_path: Path) -> None:
    """As ECMWF's open data have them."""
    height = (data["z"].isel(time=0) / 9.80665).astype("f4")
    with (tmp_path / "a.grib2").open("wb") as file:
        for level in LEVELS:
            write_message(file, height.sel(level=level), "gh", level=level)
    made = catalogue(tmp_path / "a.grib2", variables=["z"], levels=LEVELS)
    got = Values(made).read([0, 1], 0, 1)[0]
    np.testing.assert_allclose(got, data["z"].isel(time=0).values, rtol=3e-7)


@pytest.mark.parametrize("cut", [1, 20, 400])
def test_a_file_that_is_cut_off_is_refused(data: xr.Dataset, tmp_path: Path, cut: int) -> None:
    path = write(tmp_path / "a.grib", data)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r"a\.grib: .*(truncated|cut off)"):
        catalogue(path)


def test_a_message_that_is_not_there_is_named(data: xr.Dataset, tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", data)
    size = len(path.read_bytes()) // 6
    path.write_bytes(path.read_bytes()[: 4 * size])  # without t at 850 hPa of the second time
    with pytest.raises(
        ValueError, match=r"'t' has 3 messages, expected 2 x 1 x 1 x 2 .* 2001-01-02"
    ):
        catalogue(path)


def test_a_message_that_is_there_twice_is_named(data: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'t' of 2001-01-01T00:00 at level 50000 is there twice"):
        catalogue(write(tmp_path / "a.grib", data, times=(0, 0)))


def test_a_gaussian_grid_is_refused(tmp_path: Path) -> None:
    handle = eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib2")
    with (tmp_path / "a.grib").open("wb") as file:
        eccodes.codes_write(handle, file)
    with pytest.raises(ValueError, match="gridType = reduced_gg, a Gaussian grid: expected regul"):
        catalogue(tmp_path / "a.grib")


def test_forecasts_and_sums_are_no_states(data: xr.Dataset, tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", data, times=(0,))
    with path.open("ab") as file:
        write_message(file, data["t2m"].isel(time=0), "tp", stepType="accum", stepRange="0-6")
    made = catalogue(path, variables=["t2m"])
    assert made.names == ("t2m",) and "step type accum" in made.skipped["tp"]
    with path.open("ab") as file:
        write_message(file, data["t2m"].isel(time=0), "t2m", step=6)
    with pytest.raises(ValueError, match=r"'t2m': has 2 values along 'step'.* select one"):
        catalogue(path)


def test_model_levels_are_not_pressure_levels(data: xr.Dataset, tmp_path: Path) -> None:
    with (tmp_path / "a.grib").open("wb") as file:
        field = data["t"].isel(time=0, level=0)
        write_message(file, field, "t", typeOfLevel="hybrid", level=137)
    with pytest.raises((ValueError, KeyError), match="no channel 't500'; has t_hybrid"):
        catalogue(tmp_path / "a.grib", variables=["t500"])


def test_orography_beside_geopotential(data: xr.Dataset, tmp_path: Path) -> None:
    """Both are called z."""
    surface = data["z"].isel(time=0, level=0) / 100
    with (tmp_path / "a.grib").open("wb") as file:
        write_message(file, surface, "z", typeOfLevel="surface", level=0)
        for level in LEVELS:
            write_message(file, data["z"].isel(time=0).sel(level=level), "z", level=level)
    made = catalogue(tmp_path / "a.grib", variables=["z500"], static=["z"])
    assert [c.level_hpa for c in (*made.channels, *made.static)] == [500, None]
    np.testing.assert_array_equal(Values(made).static()[0], surface.values)


def test_longitudes_from_the_date_line(data: xr.Dataset, tmp_path: Path) -> None:
    """As ECMWF's open data have them: 180 to 179.75 degrees east."""
    field = data["t2m"].isel(time=0)
    rolled = field.roll(longitude=8, roll_coords=True)
    assert rolled.longitude.values[0] == 180
    with (tmp_path / "a.grib").open("wb") as file:
        write_message(file, rolled, "t2m")
    made = catalogue(tmp_path / "a.grib")
    assert made.grid.periodic and made.grid.longitude[0] == 0
    np.testing.assert_array_equal(Values(made).read([0], 0, 1)[0, 0], field.values)


def test_a_regular_gaussian_grid_is_refused(tmp_path: Path) -> None:
    handle = eccodes.codes_grib_new_from_samples("regular_gg_pl_grib2")
    with (tmp_path / "a.grib").open("wb") as file:
        eccodes.codes_write(handle, file)
    with pytest.raises(ValueError, match="gridType = regular_gg, a Gaussian grid"):
        catalogue(tmp_path / "a.grib")


def test_members_are_chosen(data: xr.Dataset, tmp_path: Path) -> None:
    with (tmp_path / "a.grib").open("wb") as file:
        for number in (0, 1, 2):
            field = data["t2m"].isel(time=0) + np.float32(number)
            more = {"productDefinitionTemplateNumber": 1, "perturbationNumber": number}
            write_message(file, field, "t2m", **more)
    with pytest.raises(ValueError, match="has 3 members"):
        catalogue(tmp_path / "a.grib")
    got = Values(catalogue(tmp_path / "a.grib", member=2)).read([0], 0, 1)[0, 0]
    np.testing.assert_array_equal(got, data["t2m"].isel(time=0).values + np.float32(2))


def test_damage_in_a_message_is_named(data: xr.Dataset, tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", data)
    made = catalogue(path)
    raw = bytearray(path.read_bytes())
    end = raw.index(b"7777")
    raw[end : end + 4] = b"\0\0\0\0"
    path.write_bytes(raw)
    with pytest.raises((OSError, ValueError), match=r"a\.grib: .*(damaged|cut off)"):
        ingest(made, tmp_path / "pack")
    with pytest.raises((OSError, ValueError), match=r"a\.grib: .*(damaged|cut off)"):
        catalogue(path)


def test_a_pack_knows_its_file(data: xr.Dataset, tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib", data)
    ingest(catalogue(path), tmp_path / "pack")
    write(path, data, times=(0, 1, 2))
    with pytest.raises(ValueError, match=r"a\.grib has \d+ bytes, it had"):
        open_pack(tmp_path / "pack")


def test_a_pack_of_netcdf_grows_by_grib(source: Path, tmp_path: Path) -> None:
    """As for a forecast from a state that came later, such as one of the open data."""
    folder, wanted = tmp_path / "source", WANTED | {"static": []}
    folder.mkdir()
    for path in source.glob("*.nc"):
        (folder / path.name).symlink_to(path)
    ingest(catalogue(folder, **wanted), tmp_path / "pack")
    later = toy_data(source).isel(time=0).assign_coords(time=np.datetime64("2002-01-01T06"))
    with (folder / "later.grib2").open("wb") as file:
        for level in LEVELS:
            height = later["z"].sel(level=level) / np.float32(9.80665)
            write_message(file, height, "gh", level=level)
            for name in ("t", "u", "v"):
                write_message(file, later[name].sel(level=level), name, level=level)
        for name in ("t2m", "u10", "v10", "msl"):
            write_message(file, later[name], name)
    header = ingest(catalogue(folder, **wanted), tmp_path / "pack")
    assert header.years == {"2001": 365, "2002": 1}
    pack, state = open_pack(tmp_path / "pack"), np.empty((12, 8, 16), np.float32)
    PackReader(pack).read(365, state)
    np.testing.assert_array_equal(state[pack.names.index("t850")], later["t"].sel(level=850))
    want = later["z"].sel(level=500)
    np.testing.assert_allclose(state[pack.names.index("z500")], want, rtol=3e-7)


def test_without_the_package_it_says_what_to_install(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.grib", data)
    monkeypatch.setitem(sys.modules, "eccodes", None)
    with pytest.raises(ValueError, match=r"a\.grib: .* pip install 'hpc_bnn\[grib\]'"):
        catalogue(path)
