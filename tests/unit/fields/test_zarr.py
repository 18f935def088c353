"""Zarr stores: what is incomplete, damaged or of another kind is refused by name."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import Blosc
from store_files import TIMES, WANTED, toy, weatherbench, weatherbench_data
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.values import Values


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("toy") / "source")


@pytest.fixture(scope="module", params=[2, 3])
def whole(request: pytest.FixtureRequest, source: Path, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("whole") / f"wb-{request.param}.zarr"
    return weatherbench(source, folder, version=request.param)


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "wb.zarr"))


def chunks(store: Path, name: str) -> list[Path]:
    """List the chunk files of an array, first to last."""
    parts = [p for p in (store / name).rglob("*") if p.is_file()]
    parts = [p for p in parts if p.name[0] != "." and p.name != "zarr.json"]
    return sorted(parts, key=lambda p: (len(str(p)), str(p)))


def test_a_chunk_that_is_not_there_is_refused(store: Path, tmp_path: Path) -> None:
    gone = chunks(store, "temperature")[7]
    gone.unlink()
    made = catalogue(store, **WANTED)
    with pytest.raises(FileNotFoundError, match=r"this chunk of 'temperature' is not there") as got:
        ingest(made, tmp_path / "pack")
    assert str(gone) in str(got.value) and "at 2001-01-07T00:00 to" in str(got.value)
    assert "copy the store again" in str(got.value)


def test_a_blosc_chunk_that_is_cut_off_is_refused(source: Path, tmp_path: Path) -> None:
    """The library would return what lies behind it in memory."""
    store = weatherbench(source, tmp_path / "wb.zarr", compressor=Blosc("lz4"))
    cut = chunks(store, "geopotential")[3]
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"geopotential/3\.0\.0\.0: this chunk .* cut off or damaged"):
        ingest(catalogue(store, **WANTED), tmp_path / "pack")


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_chunk_that_is_cut_off_is_refused(store: Path, tmp_path: Path, kept: int) -> None:
    cut = chunks(store, "geopotential")[3]
    cut.write_bytes(cut.read_bytes()[:kept])
    with pytest.raises(OSError, match=r"'geopotential'.*cut off or damaged"):
        ingest(catalogue(store, **WANTED), tmp_path / "pack")


@pytest.mark.parametrize("name", ["time", "latitude", "level"])
def test_a_coordinate_whose_chunk_is_not_there_is_refused(store: Path, name: str) -> None:
    for chunk in chunks(store, name):
        chunk.unlink()
    with pytest.raises(ValueError, match=rf"this chunk of '{name}' is not there"):
        catalogue(store)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("temperature", "no channel 't'; has lsm, msl"),
        ("level", "2 values along 'level', for which the file has no level values: expected 2"),
        ("time", "12 values along 'time', for which the file has no time values: expected 12"),
        ("latitude", "no latitude along a dimension of its own"),
    ],
)
def test_an_array_that_is_not_there_is_named(
    source: Path, tmp_path: Path, name: str, said: str
) -> None:
    data = weatherbench_data(source).drop_vars(name)
    data.to_zarr(tmp_path / "wb.zarr", zarr_format=2)
    with pytest.raises((ValueError, KeyError), match=rf"wb\.zarr.*({said})"):
        catalogue(tmp_path / "wb.zarr", **WANTED)


def test_another_calendar_is_refused(source: Path, tmp_path: Path) -> None:
    store = weatherbench(source, tmp_path / "wb.zarr")
    zarr.open_group(store, mode="r+", use_consolidated=False)["time"].attrs["calendar"] = "noleap"
    zarr.consolidate_metadata(store)
    with pytest.raises(ValueError, match=r"'time': calendar = 'noleap': expected standard"):
        catalogue(store)


def test_a_gaussian_grid_is_refused(source: Path, tmp_path: Path) -> None:
    rows = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))
    data = weatherbench_data(source).assign_coords(latitude=rows)
    data.to_zarr(tmp_path / "wb.zarr", zarr_format=2)
    with pytest.raises(ValueError, match="Gaussian grid"):
        catalogue(tmp_path / "wb.zarr")


def test_stores_of_different_grids_are_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "both").mkdir()
    weatherbench(source, tmp_path / "both" / "coarse.zarr")
    fine = toy(tmp_path / "fine", rows=16, columns=32)
    weatherbench(fine, tmp_path / "both" / "fine.zarr")
    with pytest.raises(ValueError, match=r"fine\.zarr and .*coarse\.zarr have different grids"):
        catalogue(tmp_path / "both")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda store: [p.unlink() for p in store.glob("*") if p.is_file()],
        lambda store: [p.write_text("{") for p in store.glob("*") if p.is_file()],
    ],
)
def test_broken_metadata_is_named(store: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(store)
    with pytest.raises(ValueError, match=r"wb\.zarr: .*copy it again"):
        catalogue(store)


def test_a_store_of_groups_says_which(source: Path, tmp_path: Path) -> None:
    weatherbench_data(source).to_zarr(tmp_path / "wb.zarr", group="era5", zarr_format=2)
    with pytest.raises(ValueError, match=r"groups era5: expected them at the top; give .*/era5"):
        catalogue(tmp_path / "wb.zarr")
    assert "z500" in catalogue(tmp_path / "wb.zarr" / "era5").names


def test_stores_are_found_in_folders_and_by_patterns(store: Path) -> None:
    for path in (store.parent, store.parent / "*.zarr", store.parent / "**" / "*.zarr"):
        assert len(catalogue(path, **WANTED).times) == TIMES
    with pytest.raises(FileNotFoundError, match=r"gs://bucket/wb\.zarr: expected a local path"):
        catalogue("gs://bucket/wb.zarr")


@pytest.mark.parametrize(
    ("compressor", "shards"),
    [
        (ZstdCodec(level=3), None),
        (BloscCodec(cname="lz4", clevel=5), None),
        (GzipCodec(), None),
        (None, None),
        (ZstdCodec(level=1), (4, 2, 16, 8)),
    ],
)
def test_tiles_shards_and_codecs(
    source: Path, tmp_path: Path, compressor: Any, shards: tuple[int, ...] | None
) -> None:
    """Values are what was written; a tile of missing values may be left out, all of them not."""
    data = weatherbench_data(source)
    values = data["temperature"].values.copy()
    values[:, :, :4, :4] = np.nan
    data.drop_vars("temperature").to_zarr(tmp_path / "wb.zarr", zarr_format=3, consolidated=False)
    group = zarr.open_group(tmp_path / "wb.zarr", mode="r+")
    array = group.create_array(
        "temperature", shape=values.shape, chunks=(2, 1, 4, 4), shards=shards, dtype="f4",
        compressors=compressor, fill_value=np.nan, dimension_names=data["temperature"].dims,
        attributes={"units": "K"},
    )  # fmt: skip
    array[:] = values
    made = catalogue(tmp_path / "wb.zarr", variables=["t"], levels=[850, 500])
    got = Values(made).read([0, 1], 0, TIMES)
    want = values.transpose(0, 1, 3, 2)[:, ::-1, ::-1]  # north first
    np.testing.assert_array_equal(got, want)
    array[4:6] = np.nan  # nothing of two states is written
    with pytest.raises(FileNotFoundError, match="this chunk of 'temperature' is not there"):
        Values(made).read([0, 1], 0, TIMES)


def test_fill_values_that_mean_nothing_are_not_data(source: Path, tmp_path: Path) -> None:
    """Of integers that are packed: the fill value of the store stands for a missing value."""
    data = weatherbench_data(source)[["2m_temperature"]]
    packed = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32767}
    data["2m_temperature"][3, 2, 1] = np.nan
    for version in (2, 3):
        path = tmp_path / f"{version}.zarr"
        data.to_zarr(path, zarr_format=version, encoding={"2m_temperature": packed})
        got = Values(catalogue(path)).read([0], 0, TIMES)
        assert np.isnan(got).sum() == 1
        want = data["2m_temperature"].values.transpose(0, 2, 1)[:, ::-1]
        np.testing.assert_allclose(got[:, 0], want, atol=0.0051)


def test_times_without_data_are_left_out(source: Path, tmp_path: Path) -> None:
    """ARCO-ERA5 has room for later times and says which it holds."""
    data = weatherbench_data(source)
    data.attrs = {"valid_time_start": "2001-01-03", "valid_time_stop": "2001-01-08T06"}
    data.to_zarr(tmp_path / "arco.zarr", zarr_format=2)
    made = catalogue(tmp_path / "arco.zarr", **WANTED)
    assert len(made.times) == 6 and made.channels[0].step.tolist() == [2, 3, 4, 5, 6, 7]


def test_a_pack_knows_its_store(store: Path, tmp_path: Path) -> None:
    made = catalogue(store, **WANTED)
    ingest(made, tmp_path / "pack")
    assert not open_pack(tmp_path / "pack").notices
    meta = next(p for p in (store / "temperature").iterdir() if p.name in (".zattrs", "zarr.json"))
    found = json.loads(meta.read_text())
    found["changed"] = True
    meta.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"wb\.zarr has \d+ bytes, it had"):
        open_pack(tmp_path / "pack")
    with pytest.raises(ValueError, match="it has changed: make the catalogue again"):
        Values(made).read([0], 0, 1)


def test_without_the_package_it_says_what_to_install(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=r"wb\.zarr: .* pip install 'hpc_bnn\[zarr\]'"):
        catalogue(store)
