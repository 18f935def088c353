"""The file of the scores of every start: what is written is what is read, by other tools too."""

from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
import xarray

from hpc_bnn.fields.start_scores_file import read_start_scores, write_start_scores
from hpc_bnn.verify.start_scores import COLUMNS, EVENT_COLUMNS, StartScores

START = 1_583_020_800  # 2020-03-01
N, L, C, Q = 5, 3, 2, 2


def scores() -> StartScores:
    generator = torch.Generator().manual_seed(4)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    values = {name: drawn(N, L, C) for name in COLUMNS}
    values |= {name: drawn(N, L, C, Q) for name in EVENT_COLUMNS}
    values["acc"][1, 2, 0] = torch.nan
    return StartScores(
        starts=START + 43_200 * torch.arange(N),
        lead_hours=(24.0, 48.0, 72.0),
        names=("z500", "t2m"),
        units=("m2 s-2", "K"),
        levels=(0.1, 0.9),
        members=7,
        values=values,
    )


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path, made = tmp_path / "evaluation_starts.nc", scores()
    write_start_scores(path, made, attributes={"data": "era5", "step": 12})
    got = read_start_scores(path)
    for name in ("lead_hours", "names", "units", "levels", "members"):
        assert getattr(got, name) == getattr(made, name)
    assert torch.equal(got.starts, made.starts)
    assert got.values.keys() == made.values.keys()
    for name, values in made.values.items():
        assert torch.equal(got.values[name].nan_to_num(-1), values.nan_to_num(-1))
    assert torch.equal(got.mean("mse"), made.values["mse"].mean(0))
    assert bool(got.mean("acc")[2, 0].isnan())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_xarray_opens_it_with_times_and_units(tmp_path: Path) -> None:
    path, made = tmp_path / "evaluation_starts.nc", scores()
    write_start_scores(path, made, attributes={"data": "era5", "step": 12})
    with xarray.open_dataset(path, decode_timedelta=False) as opened:
        assert opened.attrs["members"] == 7
        assert opened.attrs["data"] == "era5"
        assert str(opened.start.values[1])[:16] == "2020-03-01T12:00"
        assert opened.units_of.sel(variable="z500").item() == "m2 s-2"
        assert opened.mse.dims == ("start", "lead_time", "variable")
        assert opened.mse.attrs["power_of_units"] == 2
        assert opened.brier.dims == ("start", "lead_time", "variable", "quantile")
        one = opened.brier.sel(variable="t2m", lead_time=48, quantile=0.9)
        np.testing.assert_array_equal(one, made.values["brier"][:, 1, 1, 1])
        for name in (*COLUMNS, *EVENT_COLUMNS):
            assert opened[name].attrs["long_name"]


def test_what_does_not_fit_is_refused() -> None:
    made = scores()
    with pytest.raises(ValueError, match=r"crps \(5, 3\) of torch.float64: expected \(5, 3, 2\)"):
        replace(made, values={**made.values, "crps": made.values["crps"][..., 0]})
    with pytest.raises(ValueError, match=r"of torch.float32: expected"):
        replace(made, values={**made.values, "mse": made.values["mse"].float()})
    with pytest.raises(ValueError, match=r"StartScores: rps: expected exactly the scores mse"):
        replace(made, values={**made.values, "rps": made.values["mse"]})
    with pytest.raises(ValueError, match="1 units of 2 variables"):
        replace(made, units=("K",))


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation_starts.nc"
    with pytest.raises(FileNotFoundError, match="hpc-bnn evaluate writes it"):
        read_start_scores(path)
    path.write_bytes(b"no netCDF")
    with pytest.raises(ValueError, match="cannot be read as netCDF-4"):
        read_start_scores(path)
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("start", 1)
    with pytest.raises(ValueError, match=r"has no start, lead_time, quantile, variable, .*mse"):
        read_start_scores(path)
