"""An archive of two years in five files of both formats of the data store, from its check to a run
that loses a rank and goes on.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import yaml
from launch import Job, run_commands, run_here
from outcome import assert_same, killed_behind, read
from tiny_job import Train

from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.train.run.checkpoint import load

STEPS, BATCH = 70, 12
SETTINGS: dict[str, Any] = {
    "seed": 11,
    "posterior": {"samples": 4, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [4], "dropout": 0.1},
    "data": {
        "name": "era5",
        "variables": ["t2m", "z"],
        "levels": [500],
        "static": ["lsm"],
        "step_hours": 24,
        "train": ["2001-01-01", "2001-12-31"],
        "validation": ["2002-01-01", "2002-01-20"],
        "test": ["2002-02-01", "2002-12-31"],
    },
    "train": {
        "steps": STEPS,
        "batch_size": BATCH,
        "precision": "float64",
        "checkpoint_every": 1,
        "device": "cpu",
    },
}


def test_from_files_to_a_run_that_goes_on(train: Train, tmp_path: Path) -> None:
    """Surface fields in today's format, those on levels in the one before 2024."""
    source, statistics = tmp_path / "era5", tmp_path / "statistics.nc"
    pack = tmp_path / "pack"
    toy = "--years 2 --rows 8 --columns 16 --step-hours 24 --levels 500"
    selection = "--variables t2m,z --levels 500"
    training = "--start 2001-01-01 --end 2001-12-31 --step-hours 24"
    for words in (f"{source} {toy}", f"{tmp_path / 'legacy'} {toy} --format legacy"):
        written = run_here("data", "toy", *words.split(), cwd=tmp_path)
        assert written.status == 0, written.text
    for path in (tmp_path / "legacy").glob("pressure_levels_*.nc"):
        path.replace(source / path.name)
    assert len(list(source.iterdir())) == 5
    commands = (
        f"check {source} {selection}",
        f"statistics {source} {selection} {training} -o {statistics}",
        f"ingest {source} {selection} -o {pack}",
        f"ingest {source} -o {pack} --verify",
    )
    jobs = run_commands(*(["data", *each.split()] for each in commands), ranks=2, cwd=tmp_path)
    for ended in jobs:
        assert ended.status == 0, ended.text
    told = "".join(ended.out for ended in jobs)
    assert "(netCDF-3, netCDF-4)" in told
    assert "times     730, every 24 h, 2001-01-01T00:00 to 2002-12-31T00:00" in told
    assert "0 of them make files unusable" in told
    assert "730 steps of 2 channels in 2 years" in told
    assert f"its checksums and {source}: 0 differences" in told

    config = tmp_path / "weather.yaml"
    config.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    options = (f"data.statistics={statistics}", f"data.path={pack}")
    alone = train(tmp_path / "whole", *options, ranks=0, given=config)
    assert alone.status == 0, alone.text
    assert "made of other files" not in alone.err
    whole = read(tmp_path / "whole")
    assert sorted(whole.losses) == list(range(STEPS))

    folder, options = tmp_path / "run", (options[0], f"data.path={source}")  # of the same files
    words = ("train", config, "--run", folder, *options, "grid.sample_ranks=2")
    killed_behind(Job("-m", "hpc_bnn", *words, ranks=4, cwd=tmp_path), folder, step=STEPS // 2)
    other = ("grid.sample_ranks=1", "grid.engine=torch")
    resumed = train(folder, *options, *other, "--resume", ranks=2, given=config)
    assert resumed.status == 0, resumed.text
    assert "made of other files" not in resumed.err

    # Every step once, each on the examples of the run that nothing happened to: a step on others
    # has another loss.
    assert_same(read(folder), whole, 1e-10)
    assert len(set(whole.losses.values())) == STEPS
    (restart,) = [json.loads(line) for line in (folder / "restarts.jsonl").read_text().splitlines()]
    per_epoch = 364 // BATCH
    assert per_epoch < STEPS // 2 <= restart["step"] < STEPS  # in the middle of another epoch
    last = load(folder / "checkpoints" / f"step-{STEPS:08d}.pt")
    epoch, cursor = divmod(STEPS, per_epoch)
    assert last.position == {
        "epoch": epoch, "cursor": cursor, "seed": 11, "batch_size": BATCH, "examples": 364,
    }  # fmt: skip


def test_a_pack_that_vanishes_while_a_run_reads_it_ends_every_rank(tmp_path: Path) -> None:
    source, folder, config = tmp_path / "era5", tmp_path / "run", tmp_path / "weather.yaml"
    write_toy(source, years=2, rows=8, columns=16, step_hours=24, levels=[500.0])
    settings = {**SETTINGS, "train": {**SETTINGS["train"], "steps": 100_000}}
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    job = Job(
        "-m", "hpc_bnn", "train", config, "--run", folder, f"data.path={source}",
        ranks=2, cwd=tmp_path,
    )  # fmt: skip
    job.ranks()
    while not (folder / "checkpoints" / "step-00000005.pt").exists():
        job.ranks()
        time.sleep(0.01)
    source.with_name("era5.pack").rename(tmp_path / "away")
    ended = job.wait()
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.err, ended.text
    told = r"era5\.pack/200[12]\.f32: cannot be read any more: .*\(reading 200[12]-"
    assert re.search(told, ended.err), ended.text
    assert not list((folder / "checkpoints").glob("*.partial"))
