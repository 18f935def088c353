"""Input that cannot be used ends both ranks with status 2 and one message that names it."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from launch import Ended, run, run_commands
from tiny_job import SETTINGS, Train

from hpc_bnn.train.run.checkpoint import load


def assert_one_message(ended: Ended, *named: str) -> None:
    """One message, no traceback; ``--``: lines in which the launcher says that it ended the job."""
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.err, ended.text
    messages = [line for line in ended.err.splitlines() if line.startswith("hpc-bnn ")]
    assert len(messages) == 1, ended.text
    for name in named:
        assert ended.err.count(name) == 1, ended.text


WRONG_SETTINGS = {
    "unknown key": (["train.learning_rate=0.1"], "train.learning_rate: unknown key"),
    "samples": (["posterior.samples=13", "grid.sample_ranks=2"], "posterior.samples = 13: must be"),
    "batch size": (
        ["train.batch_size=13", "grid.sample_ranks=1"],
        "train.batch_size = 13: must be",
    ),
    "sample ranks": (["grid.sample_ranks=3"], "grid.sample_ranks = 3: must divide the 2 ranks"),
}


@pytest.fixture(scope="module")
def refused(config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """One job of two ranks that is told to train with each of the wrong settings."""
    folder = tmp_path_factory.mktemp("refused")
    commands = [
        ("train", config, "--run", folder / case, *overrides)
        for case, (overrides, _) in WRONG_SETTINGS.items()
    ]
    ended = run_commands(*commands, ranks=2, cwd=folder)
    for case in WRONG_SETTINGS:
        left = folder / case / "config.yaml"
        assert not left.exists(), f"{left}: nothing may be left of a run that never began"
    return dict(zip(WRONG_SETTINGS, ended, strict=True))


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_settings(refused: dict[str, Ended], case: str) -> None:
    assert_one_message(refused[case], WRONG_SETTINGS[case][1])


def test_used_folder_and_damaged_checkpoints(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    short = ("train.steps=4", "train.checkpoint_every=2")
    first = train(folder, *short, ranks=0)
    assert first.status == 0, first.text
    summary = (folder / "summary.json").read_text()
    assert_one_message(train(folder, *short, ranks=2), f"{folder}: holds a run already")
    assert (folder / "summary.json").read_text() == summary

    newest = folder / "checkpoints" / "step-00000004.pt"
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    (folder / "summary.json").unlink()
    resumed = train(folder, *short, "--resume", ranks=2)
    assert resumed.status == 0, resumed.text
    assert resumed.err.count(f"{newest}: damaged") == 1, resumed.text
    assert "resumed from" in resumed.err
    assert "step-00000002.pt at step 2" in resumed.err, resumed.text

    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"not a checkpoint")
    refused = train(folder, *short, "--resume", ranks=2)
    assert_one_message(refused, "checkpoints are damaged")


def test_text_in_a_number_column(train: Train, tmp_path: Path) -> None:
    rows = [f"2020-01-{1 + i // 24:02d} {i % 24:02d}:00,{i % 7}" for i in range(300)]
    rows[17] = rows[17].rpartition(",")[0] + ",broken"
    table = tmp_path / "load.csv"
    table.write_text("time,load\n" + "\n".join(rows) + "\n", encoding="utf-8")
    settings = tmp_path / "series.yaml"
    data = {
        "name": "series",
        "path": str(table),
        "time_column": "time",
        "value_columns": ["load"],
        "history": 12,
        "horizon": 4,
    }
    settings.write_text(yaml.safe_dump({**SETTINGS, "data": data}), encoding="utf-8")
    ended = train(tmp_path / "run", ranks=2, given=settings)
    assert_one_message(ended, f"{table}: line 19: column 'load': 'broken'")


def test_folder_below_a_file(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = train(tmp_path / "file" / "run", ranks=2)
    assert_one_message(ended, "the run folder cannot be written")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small file system, where this user may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mounting a small file system: there is no mount")
    if done.returncode:
        pytest.skip(f"mounting a small file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(train: Train, tmp_path: Path) -> None:
    """The disk fills up after some checkpoints: these stay good, and no torn one is left."""
    disk = tmp_path / "disk"
    with mounted(disk, "size=200k"):
        wide = ("model.hidden=[64]", "train.checkpoint_every=1", "train.keep_checkpoints=99")
        ended = train(disk / "run", *wide, ranks=2)
        assert_one_message(ended, "cannot write the checkpoint")
        left = sorted((disk / "run" / "checkpoints").iterdir())
        steps = [load(path).step for path in left]
    assert steps == list(range(1, len(steps) + 1))
    assert steps


def test_read_only_folder(train: Train, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=80k,ro"):
        ended = train(disk / "run", ranks=2)
        assert not any(os.scandir(disk))
    assert_one_message(ended, "the run folder cannot be written")


def test_no_such_settings_file(tmp_path: Path) -> None:
    ended = run(
        "-m", "hpc_bnn", "train", "absent.yaml", "--run", "run", ranks=2, cwd=tmp_path
    )  # fmt: skip
    assert_one_message(ended, "absent.yaml: no such settings file")
