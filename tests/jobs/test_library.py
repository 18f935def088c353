"""The library in a user's own script."""

from pathlib import Path

import pytest
from launch import LIMIT_S, Job

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

SCRIPT = Path(__file__).with_name("library_example.py")
METHODS = ("gaussian", "dropout", "ensemble", "sgld", "sghmc")


def numbers(cwd: Path, ranks: int) -> dict[str, list[float]]:
    """Return the losses and the prediction of each method; one job makes them all."""
    ended = Job(SCRIPT, *METHODS, ranks=ranks, cwd=cwd).wait(2 * LIMIT_S)
    assert ended.status == 0, ended.text
    found: dict[str, list[float]] = {method: [] for method in METHODS}
    for line in ended.out.splitlines():
        method, what, number = line.split()
        assert what in ("loss", "probability"), ended.text
        found[method].append(float(number))
    return found


def test_same_losses_alone_and_on_two_ranks(tmp_path: Path) -> None:
    alone, two = (numbers(tmp_path, ranks) for ranks in (0, 2))
    for method, expected in alone.items():
        assert len(expected) == 1293 // 128 + 1, method  # an epoch of the digits, the prediction
        assert expected[-2] < expected[0], method
        assert two[method] == pytest.approx(expected, rel=1e-10), method
