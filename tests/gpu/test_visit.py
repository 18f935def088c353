"""A visit on a CPU: the script runs from end to end, prints its tables last and leaves files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from workloads import WORKLOADS

SCRIPT = Path(__file__).parent / "visit.sh"


def visit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is the visit itself")
def test_a_dry_run_collects_the_tests_and_measures(tmp_path: Path) -> None:
    done = visit("--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tests/gpu/test_steps_on_gpu.py" in (tmp_path / "tests.log").read_text()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["complete"]
    assert {row["kernel"] for row in figures["noise"]} > {"copy", "draw", "pull", "kl"}
    assert all(row["GB/s"] > 0 for row in figures["noise"])
    rows = figures["steps"]
    assert not [row for row in rows if "failed" in row]
    assert {(row["network"], row["precision"], row["mode"]) for row in rows} == {
        (name, precision, mode)
        for name in WORKLOADS
        for precision in ("float32", "bf16")
        for mode in ("eager", "captured")
    } | {(next(iter(WORKLOADS)), "float32", "compiled")}
    assert all(row["ratio"] > 0 and row["launches"] > 0 for row in rows)
    assert len([row for row in rows if row.get("estimate GiB", 0) > 0]) == len(WORKLOADS)
    last = done.stdout.splitlines()
    assert last[-1].startswith("MLP") and "compiled" in last[-1]
    assert last[-len(rows) - 1].startswith("network")


def test_what_is_asked_for_wrongly_is_answered_with_the_usage() -> None:
    for arguments in (["--wheel", "x"], ["--device", "tpu"], ["--collect"]):
        done = visit(*arguments)
        assert done.returncode == 2, arguments
        assert "visit.sh [--wheels DIR]" in done.stderr
