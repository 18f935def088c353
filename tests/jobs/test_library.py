"""The library in a user's own script."""

from pathlib import Path

import pytest
from launch import Ended, run

pytest.importorskip("sklearn", reason="the digits come with scikit-learn")

SCRIPT = Path(__file__).with_name("library_example.py")


def numbers(ended: Ended) -> list[float]:
    assert ended.status == 0, ended.text
    lines = [line.split() for line in ended.out.splitlines()]
    assert {line[0] for line in lines} == {"loss", "probability"}, ended.text
    return [float(line[1]) for line in lines]


@pytest.mark.parametrize("method", ["gaussian", "dropout", "ensemble", "sgld", "sghmc"])
def test_same_losses_alone_and_on_two_ranks(tmp_path: Path, method: str) -> None:
    alone = numbers(run(SCRIPT, method, ranks=0, cwd=tmp_path))
    assert len(alone) == 1293 // 128 + 1  # an epoch of the digits, and the prediction
    assert alone[-2] < alone[0]
    assert numbers(run(SCRIPT, method, ranks=2, cwd=tmp_path)) == pytest.approx(alone, rel=1e-10)
