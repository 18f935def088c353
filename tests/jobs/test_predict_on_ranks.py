"""``hpc-bnn predict`` on several ranks writes the same files as alone."""

from pathlib import Path

import yaml
from launch import run_commands, run_here

SETTINGS = {
    "posterior": {"samples": 2, "predict_samples": 5},
    "loss": {"name": "gaussian_nll", "variance": "predicted"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"device": "cpu", "steps": 4, "batch_size": 16},
}


def test_the_files_are_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    for command in (
        ("train", "a.yaml", "--run", "run"),
        ("predict", "run", "-o", "alone.csv"),
        ("predict", "run", "--samples", "2", "-o", "few-alone.csv"),
    ):
        ended = run_here(*command, cwd=tmp_path)
        assert ended.status == 0, ended.text
    commands = (
        ("predict", "run", "-o", "ranks.csv"),
        ("predict", "run", "--samples", "2", "-o", "few-ranks.csv"),
        ("predict", "run", "--samples", "1", "-o", "missing/out.csv"),
    )
    ended = run_commands(*commands, ranks=3, cwd=tmp_path)
    assert [each.status for each in ended] == [0, 0, 2], "\n".join(each.text for each in ended)
    for name in ("", "few-"):
        for suffix in (".csv", "-samples.csv", ".png"):
            alone, ranks = (tmp_path / f"{name}{who}{suffix}" for who in ("alone", "ranks"))
            assert alone.read_bytes() == ranks.read_bytes(), alone.name
