"""`evaluation_spectra.nc`: zonal power spectra of forecasts and truth, as `verify.spectrum`.

    members, ensemble_mean, truth(variable, lead_time, wavenumber)

in the square of the unit of each variable (`units_of`); `lead_time` in hours, `wavenumber` in waves
round a circle of latitude. The sum over wavenumbers is the mean square over the globe.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import netCDF4
import numpy as np

from hpc_bnn.fields.ingest.netcdf import library_lock
from hpc_bnn.files import write_whole
from hpc_bnn.verify.spectrum import Spectra

AXES = {
    "lead_time": {"standard_name": "forecast_period", "long_name": "lead time", "units": "hours"},
    "wavenumber": {"long_name": "waves round a circle of latitude", "units": "1"},
}
WORDS = {"variable": "name of the variable", "units_of": "unit of the variable"}
TITLE = "zonal power spectra of forecasts and truth by hpc-bnn evaluate"
LONG_NAMES = {
    "members": "power of a member, mean over members and start times",
    "ensemble_mean": "power of the mean of the members, mean over start times",
    "truth": "power of the truth, mean over start times",
}


def write_spectra(
    path: Path,
    spectra: Spectra,
    *,
    units: Mapping[str, str],
    lead_hours: Sequence[float],
    attributes: Mapping[str, str | int],
) -> None:
    """Write spectra (L, C, K) in one go: the file is there complete or not at all.

    units: of each of the C variables by its name, in their order. attributes: of the whole file.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with library_lock():
        dataset = netCDF4.Dataset("spectra", "w", memory=1)
        dataset.setncatts({"title": TITLE, "Conventions": "CF-1.8", **attributes})
        dataset.createDimension("variable", len(units))
        for (name, long_name), words in zip(WORDS.items(), (units, units.values()), strict=True):
            made = dataset.createVariable(name, str, ("variable",))
            made.long_name = long_name
            made[:] = np.array(list(words), object)
        waves = range(spectra.truth.shape[-1])
        for (name, says), values in zip(AXES.items(), (lead_hours, waves), strict=True):
            dataset.createDimension(name, len(values))
            made = dataset.createVariable(name, "f8", (name,))
            made.setncatts(says)
            made[:] = np.asarray(values, np.float64)
        for name, power in zip(LONG_NAMES, spectra, strict=True):
            made = dataset.createVariable(
                name, "f8", ("variable", "lead_time", "wavenumber"), fill_value=np.nan
            )
            made.long_name = LONG_NAMES[name]
            made[...] = power.transpose(0, 1).numpy()
        content = bytes(dataset.close())
    write_whole(path, content)
