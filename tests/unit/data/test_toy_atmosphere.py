"""The toy atmosphere: the same for a seed, plausible, ERA5 in format, and learnable."""

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.names import expected_range
from hpc_bnn.fields.report import defects
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.fields.toy_waves import ToyWaves, rotation, toy_fields, toy_grid
from hpc_bnn.fields.values import Values

STEP_S = 21600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("toy")
    write_toy(made, years=1, rows=9, columns=16, levels=[850, 500, 50], step_hours=12, seed=4)
    return made


def states(path: Path, every: int) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    made = catalogue(path)
    values = Values(made).read(range(len(made.channels)), 0, len(made.times))
    return made.names, values[::every]


def test_it_has_the_layout_of_the_data_store(folder: Path) -> None:
    with netCDF4.Dataset(folder / "pressure_levels_2001.nc") as dataset:
        assert dataset.variables["z"].dimensions == (
            "valid_time", "pressure_level", "latitude", "longitude",
        )  # fmt: skip
        assert dataset.variables["pressure_level"][:].tolist() == [850, 500, 50]
        assert dataset.variables["latitude"][:].tolist() == np.linspace(90, -90, 9).tolist()
        assert dataset.variables["expver"].dtype is str
        assert dataset.variables["expver"][0] == "0001"
        assert dataset.variables["number"].shape == ()
        assert dataset.variables["valid_time"].dtype == np.int64
        assert dataset.variables["valid_time"].units == "seconds since 1970-01-01"
        z = dataset.variables["z"]
        assert z.dtype == np.float32
        assert np.isnan(z._FillValue)
        filters = z.filters()
        assert (filters["zlib"], filters["complevel"], filters["shuffle"]) == (True, 1, True)
        assert "ynthetic" in dataset.title
        assert "Not ERA5" in dataset.history
    with xarray.open_dataset(folder / "single_levels_2001.nc") as file:
        assert str(file.valid_time.values[0]) == "2001-01-01T00:00:00.000000000"
        assert set(file.data_vars) >= {"t2m", "u10", "v10", "msl"}


def test_the_catalogue_finds_no_defect_but_the_static_field(folder: Path) -> None:
    made = catalogue(folder)
    assert len(made.times) == 730
    assert made.grid.periodic
    assert [c.name for c in made.static] == ["lsm"]
    assert [d for d in defects(made) if "static" not in d] == []


def test_values_are_plausible(folder: Path) -> None:
    names, values = states(folder, 5)
    assert np.isfinite(values).all()
    for channel, name in enumerate(names):
        variable, _, level = name.partition("z")
        low, high = expected_range(
            "z" if level else variable.rstrip("0123456789") or variable, None
        )
        if level:
            low, high = expected_range("z", float(level))
        own = values[:, channel]
        assert own.min() >= low, name
        assert own.max() <= high, name
        assert own.std() > 0, name
        # A scalar has one value at each pole.
        if not name.startswith(("u", "v")):
            assert np.ptp(own[:, [0, -1]], axis=-1).max() < 1e-3 * own.std(), name


def test_the_same_seed_gives_the_same_values(tmp_path: Path, folder: Path) -> None:
    options: dict[str, Any] = {
        "years": 1, "rows": 9, "columns": 16, "levels": [850, 500, 50], "step_hours": 12,
    }  # fmt: skip
    write_toy(tmp_path / "same", seed=4, **options)
    write_toy(tmp_path / "other", seed=5, **options)
    write_toy(tmp_path / "legacy", seed=4, format="legacy", **options)
    names, want = states(folder, 73)
    np.testing.assert_array_equal(states(tmp_path / "same", 73)[1], want)
    other = states(tmp_path / "other", 73)[1]
    legacy_names, legacy = states(tmp_path / "legacy", 73)
    assert legacy_names == names
    made = catalogue(tmp_path / "legacy")
    packing = {c.name: made.parts[int(c.part[0])].packing.scale for c in made.channels}
    for channel, name in enumerate(names):
        a, b = want[:, channel], legacy[:, channel]
        assert np.abs(a - b).max() <= 0.501 * packing[name] + 2e-7 * np.abs(a).max()
        assert not np.array_equal(a, other[:, channel])
    with netCDF4.Dataset(tmp_path / "legacy" / "pressure_levels_2001.nc") as dataset:
        assert dataset.data_model == "NETCDF3_64BIT_OFFSET"
        assert dataset.variables["z"].dtype == np.int16
        assert dataset.variables["level"].units == "millibars"


def test_waves_move_so_that_persistence_can_be_beaten() -> None:
    """Error at 24 h: persistence well above climatology's 1, the known flow well below."""
    grid = toy_grid(32, 64, (500.0,))
    now = ToyWaves(grid, step_s=STEP_S, start_s=978307200, seed=0).run(400)
    oracle = now.astype(np.complex128)
    for step in range(4):
        when = 978307200 + STEP_S * (np.arange(400) + step)
        oracle *= np.stack([rotation(grid, float(t), STEP_S) for t in when])
    truth, start, moved = now[4:], now[:-4], oracle[:-4]
    size = np.sqrt(np.mean(np.abs(truth) ** 2))
    persistence = np.sqrt(np.mean(np.abs(truth - start) ** 2)) / size
    flow = np.sqrt(np.mean(np.abs(truth - moved) ** 2)) / size
    assert 0.2 < flow < 0.45  # not 0: nobody can know the noise
    assert persistence > 2.5 * flow
    assert persistence > 0.9


def test_every_row_and_season_differs(folder: Path) -> None:
    names, values = states(folder, 1)
    t2m = values[:, names.index("t2m")]
    assert t2m[:60, 1].mean() < t2m[360:420, 1].mean() - 10  # north: January and July
    assert t2m[:60, 7].mean() > t2m[360:420, 7].mean() + 10
    assert t2m[:, 4].mean() > t2m[:, 0].mean() + 20


def test_years_follow_each_other_without_a_jump(tmp_path: Path) -> None:
    write_toy(tmp_path, years=2, rows=4, columns=14, levels=[500], step_hours=24, seed=1)
    names, values = states(tmp_path, 1)
    assert len(values) == 730
    z = values[:, names.index("z500")]
    changes = np.sqrt(np.mean(np.diff(z, axis=0) ** 2, axis=(1, 2)))
    assert changes[364] < 2 * changes.mean()


def test_a_grid_with_pole_rows_and_one_without() -> None:
    for rows, first in ((33, 90.0), (32, 87.1875)):
        grid = toy_grid(rows, 64, (500.0,))
        assert grid.latitude[0] == first == -grid.latitude[-1]
        amplitudes = ToyWaves(grid, step_s=STEP_S, start_s=0, seed=2).run(3)
        fields = toy_fields(grid, amplitudes, np.arange(3) * STEP_S)
        assert fields["u"].shape == (3, 1, rows, 64)
        assert np.abs(fields["v"]).max() < 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": 3}, "at least 4 rows"),
        ({"columns": 12}, "13 columns"),
        ({"years": 0}, "years = 0"),
        ({"step_hours": 7}, "step_hours = 7"),
        ({"levels": []}, "expected different pressures"),
        ({"levels": [500, 500]}, "expected different pressures"),
        ({"format": "grib"}, "'new' or 'legacy'"),
        ({"levels": [0.5], "format": "legacy"}, "whole millibars"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        write_toy(tmp_path, **options)


def test_files_are_not_overwritten(folder: Path) -> None:
    with pytest.raises(FileExistsError, match=r"pressure_levels_2001\.nc already"):
        write_toy(folder)
