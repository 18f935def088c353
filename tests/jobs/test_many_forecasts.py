"""Forecasts from many starts over two ranks: killed twice at random moments and gone on with, to
the bytes of one process that nobody disturbed.
"""

import random
from pathlib import Path

import yaml
from launch import Job, run_here
from test_ensemble_commands import SETTINGS

from hpc_bnn.fields.toy_atmosphere import write_toy

STARTS, MEMBERS, STEPS = 20, 4, 2
WORDS = ("--starts", "2001-03-02/2001-03-11T12:00/12h", "--steps", STEPS, "--members", MEMBERS)
KILLED = Path(__file__).with_name("killed_forecast.py")
LIMIT_S = 300.0


def words(output: str) -> list[str]:
    return list(map(str, ("forecast", "run", *WORDS, "-o", output)))


def test_killed_twice_and_gone_on_with(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy", years=1, rows=7, columns=16, step_hours=12, levels=[500.0])
    settings = {**SETTINGS, "data": {**SETTINGS["data"], "path": "toy"}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    trained = run_here("train", "toy.yaml", "train.validate_every=0", "--run", "run", cwd=tmp_path)
    assert trained.status == 0, trained.text
    assert run_here(*words("whole.nc"), cwd=tmp_path).status == 0
    moment, notes = random.Random(7), STARTS * MEMBERS * STEPS
    for _ in range(2):
        # A rank writes half of what is missing: at most 80 states at first, 40 at least then.
        writes = str(moment.randrange(10, 39))
        job = Job(KILLED, writes, *words("killed.nc"), ranks=2, cwd=tmp_path)
        ended = job.wait(LIMIT_S)
        assert ended.status != 0, ended.text
        assert not (tmp_path / "killed.nc").exists()
        partial = (tmp_path / "killed.nc.partial").read_bytes()
        assert 0 < partial[-notes:].count(b"\1") < notes
    ended = Job("-m", "hpc_bnn", *words("killed.nc"), ranks=2, cwd=tmp_path).wait(LIMIT_S)
    assert ended.status == 0, ended.text
    assert (tmp_path / "killed.nc").read_bytes() == (tmp_path / "whole.nc").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "killed.nc."))]
