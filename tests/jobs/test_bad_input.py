"""Input that cannot be used ends both ranks with status 2 and one message that names it.

One job of two ranks gets all of it, one command after the other: starting Python takes most of the
time.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from launch import Ended, run_commands
from tiny_job import SETTINGS, Train

from hpc_bnn.train.run.checkpoint import available, load

SHORT = ("train.steps=4", "train.checkpoint_every=2")
WIDE = ("model.hidden=[64]", "train.checkpoint_every=1", "train.keep_checkpoints=99")
# Overrides, and what the one message names.
WRONG_SETTINGS = {
    "unknown key": (["train.learning_rate=0.1"], "train.learning_rate: unknown key"),
    "samples": (["posterior.samples=13", "grid.sample_ranks=2"], "posterior.samples = 13: must be"),
    "batch size": (
        ["train.batch_size=13", "grid.sample_ranks=1"],
        "train.batch_size = 13: must be",
    ),
    "sample ranks": (["grid.sample_ranks=3"], "grid.sample_ranks = 3: must divide the 2 ranks"),
    "engine": (["grid.engine=gloo"], "grid.engine = 'gloo'"),
    "bf16": (
        ["grid.engine=horovod", "train.compression=bf16"],
        "train.compression = bf16: Horovod cannot sum it; set grid.engine=torch",
    ),
    "no grid": (
        ["grid.mode=auto", "posterior.samples=5", "train.batch_size=7"],
        "no S x D = 2 ranks",
    ),
}
ELSEWHERE = {
    "absent": "absent.yaml: no such settings file",
    "text": "{}/load.csv: line 19: column 'load': 'broken'",
    "below a file": "the run folder cannot be written",
    "used": "{}/used: holds a run already",
    "every": "checkpoints are damaged",
}
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Refused:
    """The folder of the job, how each command ended, and why a small disk cannot be mounted."""

    folder: Path
    ended: dict[str, Ended]
    no_disk: str


def damaged_folders(used: Path, folder: Path) -> tuple[Path, Path]:
    """Copy a finished run twice: the newest checkpoint is damaged, or all are."""
    newest, every = folder / "newest", folder / "every"
    for copy in (newest, every):
        shutil.copytree(used, copy)
        (copy / "summary.json").unlink()
    last = newest / "checkpoints" / "step-00000004.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    for path in (every / "checkpoints").iterdir():
        path.write_bytes(b"not a checkpoint")
    return newest, every


def series_with_text(folder: Path) -> Path:
    """Return settings that read a table with a word where a number belongs."""
    rows = [f"2020-01-{1 + i // 24:02d} {i % 24:02d}:00,{i % 7}" for i in range(300)]
    rows[17] = rows[17].rpartition(",")[0] + ",broken"
    (folder / "load.csv").write_text("time,load\n" + "\n".join(rows) + "\n", encoding="utf-8")
    data = {
        "name": "series",
        "path": str(folder / "load.csv"),
        "time_column": "time",
        "value_columns": ["load"],
        "history": 12,
        "horizon": 4,
    }
    path = folder / "series.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "data": data}), encoding="utf-8")
    return path


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[str]:
    """Mount a small file system; yields why this user may not, or nothing."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        yield "there is no mount"
        return
    if done.returncode:
        yield done.stderr.strip()
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def refused(
    config: Path, train: Train, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Refused]:
    folder = tmp_path_factory.mktemp("refused")
    used = folder / "used"
    first = train(used, *SHORT, ranks=0)
    assert first.status == 0, first.text
    shutil.copy(used / "summary.json", folder / "before.json")
    newest, every = damaged_folders(used, folder)
    (folder / "file").write_text("")

    def to(run: Path, *words: str, given: Path | str = config) -> Command:
        return ("train", given, "--run", run, *words)

    commands = {case: to(folder / case, *words) for case, (words, _) in WRONG_SETTINGS.items()}
    commands |= {
        "absent": to(folder / "absent", given="absent.yaml"),
        "text": to(folder / "text", given=series_with_text(folder)),
        "below a file": to(folder / "file" / "run"),
        "not finite": to(folder / "not finite", "train.lr=1e30", "train.checkpoint_every=1"),
        "used": to(used, *SHORT),
        "newest": to(newest, *SHORT, "--resume"),
        "every": to(every, *SHORT, "--resume"),
    }
    with (
        mounted(folder / "full", "size=200k") as no_disk,
        mounted(folder / "read only", "size=80k,ro"),
    ):
        if not no_disk:
            commands |= {
                "full": to(folder / "full" / "run", *WIDE),
                "read only": to(folder / "read only" / "run"),
            }
        ended = run_commands(*commands.values(), ranks=2, cwd=folder)
        yield Refused(folder, dict(zip(commands, ended, strict=True)), no_disk)


def assert_one_message(ended: Ended, *named: str) -> None:
    """One message, no traceback; ``--``: lines in which the launcher says that it ended the job."""
    assert ended.status == 2, ended.text
    assert "Traceback" not in ended.err, ended.text
    messages = [line for line in ended.err.splitlines() if line.startswith("hpc-bnn ")]
    assert len(messages) == 1, ended.text
    for name in named:
        assert ended.err.count(name) == 1, ended.text


@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_settings(refused: Refused, case: str) -> None:
    assert_one_message(refused.ended[case], WRONG_SETTINGS[case][1])
    left = refused.folder / case / "config.yaml"
    assert not left.exists(), f"{left}: nothing may be left of a run that never began"


@pytest.mark.parametrize("case", ELSEWHERE)
def test_files_and_folders(refused: Refused, case: str) -> None:
    assert_one_message(refused.ended[case], ELSEWHERE[case].format(refused.folder))


def test_a_used_folder_stays_as_it_was(refused: Refused) -> None:
    before, after = (refused.folder / name for name in ("before.json", "used/summary.json"))
    assert after.read_bytes() == before.read_bytes()


def test_a_damaged_checkpoint_is_passed_over(refused: Refused) -> None:
    resumed, newest = refused.ended["newest"], refused.folder / "newest" / "checkpoints"
    assert resumed.status == 0, resumed.text
    assert resumed.err.count(f"{newest / 'step-00000004.pt'}: damaged") == 1, resumed.text
    assert "resumed from" in resumed.err
    assert "step-00000002.pt at step 2" in resumed.err, resumed.text


def test_a_loss_that_is_not_finite(refused: Refused) -> None:
    assert_one_message(refused.ended["not finite"], "hpc-bnn train: step 1: loss = ")
    folder = refused.folder / "not finite"
    assert not (folder / "summary.json").exists()
    good = [load(path) for path in available(folder / "checkpoints")]
    assert [checkpoint.step for checkpoint in good] == [1]
    tensors = good[0].posterior.values()
    assert all(tensor.isfinite().all() for tensor in tensors)


def test_full_disk(refused: Refused) -> None:
    """The disk fills up after some checkpoints: these stay good, and no torn one is left."""
    if refused.no_disk:
        pytest.skip(f"mounting a small file system: {refused.no_disk}")
    assert_one_message(refused.ended["full"], "cannot write the checkpoint")
    left = sorted((refused.folder / "full" / "run" / "checkpoints").iterdir())
    steps = [load(path).step for path in left]
    assert steps == list(range(1, len(steps) + 1))
    assert steps


def test_read_only_folder(refused: Refused) -> None:
    if refused.no_disk:
        pytest.skip(f"mounting a small file system: {refused.no_disk}")
    assert_one_message(refused.ended["read only"], "the run folder cannot be written")
    assert not any(os.scandir(refused.folder / "read only"))
