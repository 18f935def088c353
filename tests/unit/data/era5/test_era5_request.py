"""The download script: run for real, with a data store that only writes down what it is asked."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpc_bnn.data.era5.request import request_script

ASKED: dict[str, Any] = {
    "variables": ["t2m", "10m_u_component_of_wind", "z", "u850", "q"],
    "levels": [500, 850.0],
    "static": ["lsm", "z"],
    "spans": [("2001-11-05", "2001-12-31"), ("2002-01-01", "2002-01-03")],
    "degrees": 1.5,
    "every_hours": 12,
    "folder": "files",
}
STORE = """
import json
class Client:
    def retrieve(self, dataset, request, target):
        with open("asked.jsonl", "a") as file:
            file.write(json.dumps([dataset, request, target]) + "\\n")
        if "fail" in __import__("os").environ and "2001-12" in target:
            open(target, "w").write("half")
            raise OSError("the connection broke")
        open(target, "w").write("data")
"""


def run(folder: Path, script: str, **environment: str) -> tuple[int, list[Any]]:
    import json

    (folder / "cdsapi.py").write_text(STORE)
    (folder / "request.py").write_text(script)
    (folder / "asked.jsonl").write_text("")
    done = subprocess.run(
        [sys.executable, "request.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    lines = (folder / "asked.jsonl").read_text().splitlines()
    return done.returncode, [json.loads(line) for line in lines]


def test_every_month_is_requested_with_exactly_what_is_needed(tmp_path: Path) -> None:
    status, asked = run(tmp_path, request_script(**ASKED))
    assert status == 0
    files = sorted(path.name for path in (tmp_path / "files").iterdir())
    months = ("2001-11", "2001-12", "2002-01")
    kinds = ("levels1", "levels2", "surface")
    assert files == sorted(["static.nc", *(f"{kind}-{m}.nc" for kind in kinds for m in months)])
    by_target = {Path(target).stem: (dataset, request) for dataset, request, target in asked}
    surface, levels = (by_target[f"{kind}-2001-11"] for kind in ("surface", "levels1"))
    assert surface[0] == "reanalysis-era5-single-levels"
    assert surface[1]["variable"] == ["2m_temperature", "10m_u_component_of_wind"]
    assert levels[0] == "reanalysis-era5-pressure-levels"
    assert levels[1]["variable"] == ["geopotential", "specific_humidity"]
    assert levels[1]["pressure_level"] == ["500", "850"]
    only = by_target["levels2-2001-11"][1]
    assert (only["variable"], only["pressure_level"]) == (["u_component_of_wind"], ["850"])
    for request in (surface[1], levels[1], only):
        assert request["time"] == ["00:00", "12:00"]
        assert request["grid"] == [1.5, 1.5]
        assert (request["year"], request["month"]) == (["2001"], ["11"])
        assert request["day"] == [f"{day:02d}" for day in range(1, 31)]
        assert (request["data_format"], request["download_format"]) == ("netcdf", "unarchived")
    static = by_target["static"][1]
    assert static["variable"] == ["land_sea_mask", "geopotential"]
    assert static["time"] == ["00:00"]


def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    script = request_script(**ASKED)
    status, first = run(tmp_path, script, fail="1")
    assert status != 0
    there = {path.name for path in (tmp_path / "files").glob("*.nc")}
    assert "surface-2001-11.nc" in there
    assert "surface-2001-12.nc" not in there, "half a file has another name"
    status, second = run(tmp_path, script)
    assert status == 0
    targets = [target for _, _, target in [*first[:-1], *second]]
    assert len(targets) == len(set(targets)) == 10, "nothing that is there is asked for again"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"variables": ["t2n"]}, "'t2n' is no ERA5 variable"),
        ({"variables": ["tp"]}, "'tp' is a sum over an interval"),
        ({"levels": []}, "'z' lies on pressure levels; give data.levels"),
        ({"static": ["orography"]}, "data.static: 'orography' is no ERA5 variable"),
        ({"every_hours": 5}, "--every 5: expected a divisor of 24"),
    ],
)
def test_what_cannot_be_requested(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request_script(**{**ASKED, **wrong})
