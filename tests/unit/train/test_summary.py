"""``summary.json`` of a run that has ended: what is read again, and what is not taken for one."""

import logging
import math
import os
from pathlib import Path

import pytest

from hpc_bnn.files import write_json
from hpc_bnn.train.run.summary import read_summary


def test_null_is_nan(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    assert read_summary(path) is None
    write_json(
        path, {"steps": 6, "final_loss": math.nan, "validation": {"a": math.inf, "b": 0.5}, "c": 1}
    )
    summary = read_summary(path)
    assert summary is not None
    assert math.isnan(summary["final_loss"]) and math.isnan(summary["validation"]["a"])
    assert (summary["steps"], summary["validation"]["b"], summary["c"]) == (6, 0.5, 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b'{"steps": 6, "final_loss": 1.0}',
        b'{"steps": 6, "final_loss": 1.0, "validation": null}',
        b'{"steps": 6, "final_loss": "low", "validation": {}}',
        b'{"steps": null, "final_loss": 1.0, "validation": {}}',
    ],
)
def test_what_is_no_summary_is_told_and_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, logger="hpc_bnn"):
        assert read_summary(path) is None
    assert caplog.messages[0].startswith(f"{path}: not the summary of a run (")
    assert caplog.messages[0].endswith("): it is written again")


def test_it_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, sync, synced = tmp_path / "summary.json", os.fsync, []

    def noted(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_json(path, {"steps": 6})
    assert synced[0] == (len(path.read_bytes()), False)
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
