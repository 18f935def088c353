"""The file of spectra holds what it was given, readable by xarray without help."""

from pathlib import Path

import pytest
import torch
import xarray

from hpc_bnn.fields.spectra_file import write_spectra
from hpc_bnn.verify.spectrum import Spectra


def spectra() -> Spectra:
    generator = torch.Generator().manual_seed(0)
    return Spectra(*torch.rand(3, 2, 3, 5, generator=generator, dtype=torch.float64))


def test_xarray_reads_it_as_it_is(tmp_path: Path) -> None:
    made, units = spectra(), {"t2m": "K", "z500": "m2 s-2", "u10": "m s-1"}
    made.members[1, 2, 4] = torch.nan
    path = tmp_path / "evaluation_spectra.nc"
    write_spectra(path, made, units=units, lead_hours=(24.0, 48.0), attributes={"step": 600})
    with xarray.open_dataset(path, decode_timedelta=False) as read:
        assert read.attrs["step"] == 600
        assert dict(zip(read.variable.values, read.units_of.values, strict=True)) == units
        assert read.lead_time.values.tolist() == [24.0, 48.0]
        assert read.wavenumber.values.tolist() == [0, 1, 2, 3, 4]
        for name, power in zip(("members", "ensemble_mean", "truth"), made, strict=True):
            assert read[name].dims == ("variable", "lead_time", "wavenumber")
            got = torch.from_numpy(read[name].values.copy()).transpose(0, 1)
            torch.testing.assert_close(got, power, rtol=0, atol=0, equal_nan=True)


def test_every_variable_says_what_it_is(tmp_path: Path) -> None:
    """As the CF conventions want it of coordinates, too."""
    path = tmp_path / "evaluation_spectra.nc"
    units = {"t2m": "K", "z500": "m2 s-2", "u10": "m s-1"}
    write_spectra(path, spectra(), units=units, lead_hours=(24.0, 48.0), attributes={})
    with xarray.open_dataset(path, decode_timedelta=False) as read:
        for name, variable in read.variables.items():
            assert {"standard_name", "long_name"} & variable.attrs.keys(), name
        assert read.lead_time.standard_name == "forecast_period"
        assert read.lead_time.units == "hours"


def test_a_file_that_cannot_be_written_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "evaluation_spectra.nc"
    units = {"t2m": "K", "z500": "m2 s-2", "u10": "m s-1"}
    with pytest.raises(OSError, match="absent"):
        write_spectra(path, spectra(), units=units, lead_hours=(24.0, 48.0), attributes={})
    assert not path.exists()
