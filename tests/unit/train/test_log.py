"""Metrics as JSON lines that survive a resume, and progress in batch jobs and on terminals."""

import io
import json
import logging
import math
import sys
import types
from pathlib import Path

import pytest

from hpc_bnn.train.run.log import Metrics, StepProgress, read_metrics


def written(path: Path, steps: range, *, first_step: int = 0) -> None:
    metrics = Metrics(path, first_step=first_step)
    for step in steps:
        metrics.write({"step": step, "loss": step / 3})
    metrics.close()


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_metrics(path)]


def test_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    written(path, range(3))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"step": s, "loss": s / 3} for s in range(3)]
    assert read_metrics(path) == [json.loads(line) for line in lines]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_starts_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(3))
    Metrics(path, first_step=0).close()
    assert path.read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("first_step", [0, 1, 3, 5, 9])
def test_resume_cuts_off_what_lies_after_the_checkpoint(tmp_path: Path, first_step: int) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(5))
    before = path.read_text(encoding="utf-8").splitlines()
    written(path, range(first_step, 7), first_step=first_step)
    assert steps(path) == [*range(min(first_step, 5)), *range(first_step, 7)]
    after = path.read_text(encoding="utf-8").splitlines()
    assert after[: min(first_step, 5)] == before[:first_step]


def test_a_validation_row_stays_with_its_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, first_step=0)
    for step in range(4):
        metrics.write({"step": step, "loss": 1.0})
        if step % 2:
            metrics.write({"step": step, "validation_nll": 2.0})
    metrics.close()
    Metrics(path, first_step=2).close()
    assert [sorted(row) for row in read_metrics(path)] == [
        ["loss", "step"],
        ["loss", "step"],
        ["step", "validation_nll"],
    ]


@pytest.mark.parametrize("cut", [1, 2, 12, 24])
def test_a_last_line_that_was_cut_short(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(4))
    content = path.read_bytes()
    assert len(content.splitlines()[-1]) == 24
    path.write_bytes(content[:-cut])
    assert steps(path) == ([0, 1, 2, 3] if cut == 1 else [0, 1, 2])
    written(path, range(4, 6), first_step=4)
    assert steps(path) == [0, 1, 2, *([3] if cut == 1 else []), 4, 5]


def test_bytes_that_a_crash_left(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(path, range(2))
    with path.open("ab") as file:
        file.write(b"\0" * 64)
    assert steps(path) == [0, 1]
    written(path, range(2, 3), first_step=2)
    assert steps(path) == [0, 1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_null(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, first_step=0)
    metrics.write({"step": 0, "loss": value, "kl": 1.5, "count": 3})
    metrics.close()
    assert "NaN" not in path.read_text(encoding="utf-8")
    assert read_metrics(path) == [{"step": 0, "loss": None, "kl": 1.5, "count": 3}]


def test_flush_makes_rows_visible(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, first_step=0)
    metrics.write({"step": 0})
    metrics.flush()
    assert steps(path) == [0]
    metrics.close()


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


def told(caplog: pytest.LogCaptureFixture, *, first: int = 0, speaks: bool = True) -> list[str]:
    caplog.set_level(logging.INFO, logger="hpc_bnn")
    progress = StepProgress(total=10, first=first, log_every=4, is_first_rank=speaks)
    for done in range(first + 1, 11):
        progress.log(done, 0.5)
    progress.close()
    return [record.getMessage() for record in caplog.records]


def test_batch_jobs_get_log_lines_with_an_eta(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = told(caplog)
    assert [line.partition(",")[0] for line in lines] == [
        "step 4 of 10",
        "step 8 of 10",
        "step 10 of 10",
    ]
    assert all("loss 0.5" in line and "s/step" in line and "ETA 0:00:0" in line for line in lines)
    assert capsys.readouterr().err == ""


def test_other_ranks_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert told(caplog, speaks=False) == []


def test_the_eta_counts_the_steps_of_this_job_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 102.0, 107.0])
    monkeypatch.setattr("hpc_bnn.progress.time.perf_counter", lambda: next(clock))
    caplog.set_level(logging.INFO, logger="hpc_bnn")
    progress = StepProgress(total=5000, first=1000, log_every=1, is_first_rank=True)
    progress.log(1001, 0.5)
    progress.log(1002, 0.5)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].endswith("2 s/step, ETA 2:13:18")  # 3999 steps of 2 s
    assert lines[1].endswith("3.5 s/step, ETA 3:53:13")  # 3998 steps of 3.5 s


def test_a_terminal_gets_a_bar_and_no_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert told(caplog, first=6) == []
    assert "10/10" in terminal.getvalue()
    assert "loss=0.5" in terminal.getvalue()


def test_a_notebook_gets_a_bar(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its standard error is no terminal, but somebody watches; without widgets it is text."""
    notebook = io.StringIO()
    monkeypatch.setattr(sys, "stderr", notebook)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    assert told(caplog, first=6) == []
    assert "10/10" in notebook.getvalue()


def test_a_quiet_run_has_no_bar(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.WARNING, logger="hpc_bnn")
    progress = StepProgress(total=10, first=0, log_every=4, is_first_rank=True)
    progress.log(10, 0.5)
    progress.close()
    assert (terminal.getvalue(), caplog.records) == ("", [])
