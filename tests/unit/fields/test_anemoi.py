"""Stores of anemoi-datasets: variables by the names of their columns, chunks read once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from store_files import TIMES, WANTED, anemoi, toy

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.ingest import anemoi as reader
from hpc_bnn.fields.ingest import zarr as stores
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.values import Values


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("toy") / "source")


@pytest.fixture
def store(source: Path, tmp_path: Path) -> Path:
    return anemoi(source, tmp_path / "an.zarr")


def group(store: Path) -> Any:
    return zarr.open_group(store, mode="r+")


def test_what_the_columns_are(store: Path) -> None:
    made = catalogue(store, **WANTED)
    assert made.parts[0].file.flavour == "anemoi-datasets, zarr format 2"
    assert made.names[:5] == ("t2m", "u10", "v10", "msl", "z500") and len(made.times) == TIMES
    assert [c.name for c in made.static] == ["lsm"]


@pytest.mark.parametrize("kept", [0, 1 << 28])
def test_each_chunk_is_read_once(store: Path, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many channels are cut out of it, if they fit; else the numbers are the same."""
    made, reads, read = catalogue(store, **WANTED), [], stores.read
    want = Values(made).read(range(len(made.channels)), 0, TIMES)
    Values(made).close()
    monkeypatch.setattr(reader, "KEPT_BYTES", kept)
    monkeypatch.setattr(stores, "read", lambda *given: reads.append(given[2]) or read(*given))
    got = Values(made).read(range(len(made.channels)), 0, TIMES)
    np.testing.assert_array_equal(got, want)
    count = reads.count("data")
    assert count == TIMES if kept else count > TIMES


def test_missing_dates_are_left_out(store: Path) -> None:
    group(store).attrs["missing_dates"] = ["2001-01-03T00:00:00", "2001-01-05T00:00:00"]
    made = catalogue(store, **WANTED)
    assert made.channels[0].step.tolist() == [0, 1, 3, 5, 6, 7, 8, 9, 10, 11]


def test_a_date_that_is_not_there_is_refused(store: Path, tmp_path: Path) -> None:
    (store / "data" / "6.0.0.0").unlink()
    with pytest.raises(FileNotFoundError, match=r"data/6\.0\.0\.0: this chunk .* is not there"):
        ingest(catalogue(store, **WANTED), tmp_path / "pack")


def test_cells_that_are_no_grid_are_refused(store: Path) -> None:
    places = group(store)["latitudes"]
    places[40:] = places[40:] + 0.5
    group(store).attrs["resolution"] = "o96"
    with pytest.raises(ValueError, match=r"128 cells \(resolution o96\) are no rows and columns"):
        catalogue(store)


@pytest.mark.parametrize("name", ["dates", "longitudes"])
def test_an_array_that_is_not_there_is_named(store: Path, name: str) -> None:
    del group(store)[name]
    with pytest.raises(ValueError, match=rf"an\.zarr: no array '{name}': expected the dates"):
        catalogue(store)


def test_names_that_do_not_fit_are_refused(store: Path) -> None:
    group(store).attrs["variables"] = ["2t"]
    with pytest.raises(ValueError, match=r"'data' has the shape .* variables 1 names: expected"):
        catalogue(store)


def test_orography_beside_geopotential(store: Path) -> None:
    """Both are called z; the column of the land mask stands for it."""
    names = group(store).attrs["variables"]
    group(store).attrs["variables"] = [*names[:-1], "z"]
    made = catalogue(store, variables=["z500"], static=["z"])
    want = group(store)["data"][0, -1, 0].reshape(8, 16)
    np.testing.assert_array_equal(Values(made).static()[0], want)
    want = group(store)["data"][1, names.index("z_500"), 0].reshape(8, 16)
    np.testing.assert_array_equal(Values(made).read([0], 1, 2)[0, 0], want)


def test_model_levels_are_not_pressure_levels(store: Path) -> None:
    about = {"t_500": {"mars": {"param": "t", "levtype": "ml", "levelist": 500}}}
    group(store).attrs["variables_metadata"] = about
    with pytest.raises(ValueError, match="no channel 't500'"):
        catalogue(store, variables=["t500"])
