"""From settings to a run on what they ask of the data store: every command that is printed is run,
on files as the data store writes them.
"""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import SERIES, hpc_bnn, written

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.pack import open_pack

# In place of cdsapi: whole months in one chunk; static fields with a time, as all fields have.
STORE = """
from datetime import datetime, timezone
from itertools import product
import netCDF4
import numpy as np

FIELDS = {  # short name, units, smallest and largest value
    "2m_temperature": ("t2m", "K", 270, 290),
    "geopotential": ("z", "m**2 s**-2", 0, 60000),
    "land_sea_mask": ("lsm", "(0 - 1)", 0, 1),
    "soil_type": ("slt", "~", 0, 7),
}


class Client:
    def retrieve(self, dataset, request, target):
        days = product(*(request[key] for key in ("year", "month", "day", "time")))
        days = [datetime.fromisoformat(f"{y}-{m}-{d}T{t}+00:00") for y, m, d, t in days]
        axes = {"valid_time": ("seconds since 1970-01-01", [int(t.timestamp()) for t in days])}
        if "pressure_level" in request:
            axes["pressure_level"] = ("hPa", [float(one) for one in request["pressure_level"]])
        rows, columns = request["grid"]
        axes["latitude"] = ("degrees_north", np.arange(90, -90 - rows / 2, -rows))
        axes["longitude"] = ("degrees_east", np.arange(0, 360, columns))
        with netCDF4.Dataset(target, "w") as file:
            for name, (units, values) in axes.items():
                file.createDimension(name, len(values))
                file.createVariable(name, np.asarray(values).dtype, (name,))[:] = values
                file[name].units = units
            file["valid_time"].calendar = "proleptic_gregorian"
            file.createVariable("number", "i8", ())[...] = 0
            version = file.createVariable("expver", str, ("valid_time",))
            version[:] = np.array(["0001"] * len(days), object)
            shape = tuple(len(values) for _, values in axes.values())
            for at, (name, units, low, high) in enumerate(map(FIELDS.get, request["variable"])):
                field = file.createVariable(
                    name, "f4", tuple(axes), zlib=True, chunksizes=shape, fill_value=np.nan
                )
                field.setncatts({"units": units, "GRIB_stepType": "instant"})
                if "pressure_level" in axes:
                    low, high = 47000, 50000
                field[:] = np.random.default_rng(at).uniform(low, high, shape)
"""
DATA: dict[str, Any] = {
    "name": "era5",
    "path": "era5.pack",
    "variables": ["t2m", "z"],
    "levels": [500],
    "static": ["lsm", "slt", "z"],
    "train": ["2001-01-01", "2001-01-31"],
    "validation": ["2001-02-01", "2001-02-14"],
    "test": ["2001-02-15", "2001-02-28"],
}
STATISTICS = ("--start", "2001-01-01", "--end", "2001-01-31", "-o", "statistics.nc")


@pytest.mark.parametrize(("step_hours", "times"), [(3, 59 * 8), (24, 59 * 4)])
def test_from_settings_to_a_run(
    tmp_path: Path, step_hours: int, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = SERIES | {"data": DATA | {"step_hours": step_hours}}
    config = written(tmp_path / "weather.yaml", settings)
    assert hpc_bnn("data", "request", config, "--degrees", 30, "-o", "request.py") == 0
    (tmp_path / "cdsapi.py").write_text(STORE)
    subprocess.run([sys.executable, "request.py"], check=True)
    assert len(list((tmp_path / "era5").iterdir())) == 5

    script = (tmp_path / "request.py").read_text()
    commands = [shlex.split(line) for line in script.splitlines() if line.startswith("    hpc-bnn")]
    assert [words[2] for words in commands] == ["check", "ingest"]
    for words in commands:
        assert hpc_bnn(*words[1:]) == 0
    for folder in ("era5", "era5.pack"):
        made = open_pack(folder) if folder == "era5.pack" else catalogue(folder)
        assert (made.names, [c.name for c in made.static]) == (("t2m", "z500"), DATA["static"])
        assert len(made.times) == times and made.present().all()
        hours = ("--step-hours", step_hours)
        assert hpc_bnn("data", "statistics", folder, *hours, *STATISTICS) == 0

    options = ("data.statistics=statistics.nc", "train.steps=1", "train.batch_size=4")
    for folder in ("era5.pack", "era5"):
        assert (
            hpc_bnn("train", config, "--run", f"run-{folder}", f"data.path={folder}", *options) == 0
        )
