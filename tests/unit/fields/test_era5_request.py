"""The download script: run for real, with a data store that only writes down what it is asked."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpc_bnn.fields.request import request_script
from hpc_bnn.fields.windows import window_steps

ASKED: dict[str, Any] = {
    "variables": ["t2m", "10m_u_component_of_wind", "z", "u850", "q"],
    "levels": [500, 850.0],
    "static": ["lsm", "z"],
    "spans": [("2001-11-05", "2001-12-31"), ("2002-01-01", "2002-01-03")],
    "degrees": 1.5,
    "step_hours": 24,
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
        ({"every_hours": 5}, "--every 5, data.step_hours = 24: .* expected 1, 2, 3, 4, 6, 8, 12"),
        ({"every_hours": 6, "step_hours": 3}, "--every 6, .* = 3: .* expected 1, 3, .*; leave"),
        ({"every_hours": 24, "step_hours": 36}, "no state lies 36 h after another"),
        ({"every_hours": 48, "step_hours": 48}, "divide the day"),
        ({"step_hours": 0}, "data.step_hours = 0: expected at least 1"),
    ],
)
def test_what_cannot_be_requested(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        request_script(**{**ASKED, **wrong})


@pytest.mark.parametrize(
    ("step_hours", "every"),
    [(24, 6), (48, 6), (36, 6), (12, 6), (6, 6), (3, 3), (8, 4), (4, 4), (9, 3), (2, 2), (5, 1)],
)
def test_states_lie_as_far_apart_as_windows_need(step_hours: int, every: int) -> None:
    """At most 6 h: forecasts over a day then start at four times of day."""
    script = request_script(**{**ASKED, "step_hours": step_hours, "every_hours": None})
    assert f"every {every} h," in script
    assert str([f"{hour:02d}:00" for hour in range(0, 24, every)]) in script
    stored = np.arange(0, 10 * 24, every) * 3600
    there = np.ones(len(stored), bool)
    assert len(window_steps(stored, there, step_hours=step_hours, history=2)) > 0


def test_the_script_names_what_comes_then() -> None:
    script = request_script(**{**ASKED, "folder": "my files/"})
    ingest = next(line for line in script.splitlines() if "data ingest" in line)
    assert shlex.split(ingest) == [
        "hpc-bnn", "data", "ingest", "my files", "-o", "my files.pack",
        "--variables", "t2m,10m_u_component_of_wind,z,u850,q", "--levels", "500,850",
        "--static", "lsm,z",
    ]  # fmt: skip
    bare = request_script(**{**ASKED, "variables": ["t2m"], "levels": [], "static": []})
    ingest = next(line for line in bare.splitlines() if "data ingest" in line)
    assert ingest.split()[2:] == ["ingest", "files", "-o", "files.pack", "--variables", "t2m"]
