"""``tests/bench/weather.py`` on a toy atmosphere: it trains, and prints beside the published."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hpc_bnn.fields.toy_atmosphere import write_toy

BENCH = Path(__file__).parents[1] / "bench" / "weather.py"
SMALL = (
    "data.variables=[t2m, z]", "data.levels=[500]", "data.static=[lsm]", "data.step_hours=24",
    'data.train=["2001-01-01", "2001-02-20"]', 'data.validation=["2001-02-21", "2001-02-25"]',
    'data.test=["2001-03-01", "2001-03-25"]', "posterior.samples=2", "model.width=8",
    "model.depths=[2, 0, 0, 2]", "model.heads=[2, 2, 2, 2]", "model.window=[2, 2]",
    "posterior.predict_samples=3", "evaluation.starts=9", "loss.channel_weights={}",
    "train.epochs=0", "train.steps=2", "train.batch_size=2", "train.precision=float32",
    "train.device=cpu",
)  # fmt: skip


def test_a_run_beside_the_published_ones(tmp_path: Path) -> None:
    write_toy(tmp_path / "toy atmosphere", years=1, rows=8, columns=16, step_hours=12, levels=[500])
    words = [tmp_path / "toy atmosphere", *SMALL, "--run", tmp_path / "run", "-o", tmp_path]
    done = subprocess.run(
        [sys.executable, BENCH, *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = {(" ".join(line[:2]), line[2]): line[3:] for line in lines if len(line) == 9}
    assert rows["AR-24h diffusion", "24"] == ["65.2", "135.7", "0.84", "0.600", "0.494", "0.807"]
    assert (tmp_path / "weather.csv").is_file()
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    scores = evaluation["scores"]
    for at, lead in enumerate(("24", "72", "120")):
        place = evaluation["lead_hours"].index(float(lead))
        crps, rmse, ssr, t850, t2m, u10 = rows["this run", lead]
        assert float(crps) == pytest.approx(scores["z500"]["crps"][place], rel=1e-3)
        assert float(t2m) == pytest.approx(scores["t2m"]["crps"][place], rel=1e-3)
        assert float(ssr) == pytest.approx(scores["z500"]["spread_skill_ratio"][place], rel=1e-3)
        assert float(rmse) <= scores["z500"]["rmse"][place] * 1.001  # a mean of roots
        assert (t850, u10) == ("-", "-"), at
    assert "9 start times, 3 members; published: arXiv:2410.05431" in done.stdout
    assert "not the same protocol: data.test, data.train" in done.stdout
