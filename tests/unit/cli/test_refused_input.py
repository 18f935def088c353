"""Input that cannot be used ends with status 2 and one message that names file, key and value."""

from pathlib import Path
from typing import Any

import pytest
from tiny_run import SERIES, checkpoints, hpc_bnn, metrics, written

from hpc_bnn.config import CONFIGS
from hpc_bnn.lock import hold
from hpc_bnn.train.run.checkpoint import load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path / "tiny.yaml", SERIES)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.step=3", "command line: train.step: unknown key; did you mean steps?"),
        ("train.steps=many", "command line: train.steps = 'many': input should be"),
        ("train.lr=-1", "command line: train.lr = -1: input should be greater than 0"),
        ("model.hiden=[3]", "model.hiden: unknown key; did you mean hidden?"),
        ("model.dropout=1.5", "model.dropout = 1.5: must be at least 0 and less than 1"),
        ("loss.sigma=0", "loss.sigma = 0: must be a positive number"),
        ("data.history=0", "history = 0"),
        ("data.transform={name: shift, pixels: 1}", "expected images"),
        ("posterior.random=[nothing.*]", "posterior.random: the pattern 'nothing.*' matches no"),
        ("train.batch_size=1000", "train.batch_size = 1000: the training set has only 195"),
        ("grid.sample_ranks=2", "grid.sample_ranks = 2: must divide the 1 ranks of this job (1)"),
    ],
)
def test_settings(config: Path, tmp_path: Path, told: Any, override: str, expected: str) -> None:
    message = told("train", config, override, "--run", tmp_path / "run")
    assert expected in message
    assert not (tmp_path / "run" / "checkpoints" / "step-00000006.pt").exists()


def test_messages_about_a_file_name_it(tmp_path: Path, told: Any) -> None:
    bad = written(tmp_path / "bad.yaml", {**SERIES, "model": {"name": "mlp", "hiden": [3]}})
    assert f"{bad}: model.hiden: unknown key" in told("train", bad, "--run", tmp_path / "run")
    bad = written(tmp_path / "bad.yaml", {**SERIES, "seed": "one"})
    assert f"{bad}: seed = 'one'" in told("train", bad, "--run", tmp_path / "run")


def test_a_settings_file_that_is_not_there(tmp_path: Path, told: Any) -> None:
    message = told("train", tmp_path / "none.yaml", "--run", tmp_path / "run")
    assert message.startswith(f"{tmp_path / 'none.yaml'}: no such settings file")
    assert str(CONFIGS) in message
    assert not (tmp_path / "run").exists()


def rows(count: int = 200) -> list[str]:
    return [f"2020-01-{1 + h // 24:02d} {h % 24:02d}:00,{h}.5" for h in range(count)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["time,load", *rows()[:50], *rows()[53:]], ("line 52", "3 times missing")),
        (None, ("no such file",)),
    ],
    ids=["missing times", "absent"],
)
def test_csv(tmp_path: Path, told: Any, lines: list[str] | None, expected: tuple[str, ...]) -> None:
    csv = tmp_path / "load.csv"
    if lines is not None:
        csv.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {
        "name": "series",
        "path": str(csv),
        "time_column": "time",
        "value_columns": ["load"],
        "history": 12,
        "horizon": 4,
    }
    config = written(tmp_path / "csv.yaml", {**SERIES, "data": data})
    message = told("train", config, "--run", tmp_path / "run")
    assert message.startswith(f"{csv}: ")
    for part in expected:
        assert part in message
    assert not (tmp_path / "run").exists()


def test_a_used_run_folder(config: Path, tmp_path: Path, told: Any) -> None:
    run = tmp_path / "run"
    assert hpc_bnn("train", config, "train.steps=1", "--run", run) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = told("train", config, "train.steps=1", "--run", run)
    assert message.startswith(f"{run}: holds a run already; continue it with --resume")
    message = told("train", config, "train.steps=1", "train.lr=0.5", "--run", run, "--resume")
    assert message.startswith(f"{run / 'config.yaml'}: train.lr = 0.001 in the run of this folder")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_diverging_run_keeps_its_last_good_checkpoint(
    config: Path, tmp_path: Path, told: Any
) -> None:
    run = tmp_path / "run"
    wild = ["train.lr=1e30", "train.checkpoint_every=1", "train.validate_every=0"]
    float32 = "train.precision=float32"
    message = told("train", config, *wild, float32, "--run", run)
    assert message.startswith("step 1: loss = ")
    assert "first parameter with a non-finite gradient: " in message
    assert "Lower train.lr" in message
    assert checkpoints(run) == ["step-00000001.pt"]
    state = load(run / "checkpoints" / "step-00000001.pt")
    assert all(bool(tensor.isfinite().all()) for tensor in state.posterior.values())
    assert [row["step"] for row in metrics(run)] == [0]
    assert not (run / "summary.json").exists()


def test_parameters_that_overflow_are_never_saved(config: Path, tmp_path: Path, told: Any) -> None:
    """The loss of the step was fine, its update was not: float32 ends at 3.4e38."""
    run = tmp_path / "run"
    wild = ["train.lr=1e39", "train.checkpoint_every=1", "train.precision=float32"]
    message = told("train", config, *wild, "--run", run)
    assert "parameter module.network.layers.0.weight is not finite" in message
    assert "the checkpoint was not written" in message
    assert checkpoints(run) == []


def test_evaluate_needs_a_run_and_a_checkpoint(config: Path, tmp_path: Path, told: Any) -> None:
    message = told("evaluate", tmp_path)
    assert message.startswith(f"{tmp_path / 'config.yaml'}: no run in this folder")
    run = tmp_path / "run"
    assert hpc_bnn("train", config, "train.steps=1", "--run", run) == 0
    (checkpoint,) = (run / "checkpoints").iterdir()
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[:1000])
    assert "all 1 checkpoints are damaged" in told("evaluate", run)
    checkpoint.unlink()
    assert "no checkpoint to evaluate or predict with; train first" in told("evaluate", run)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["train", "mlp_series.yaml"], "one of the arguments --run --estimate is required"),
        (["train", "--run", "x"], "a settings file is missing"),
        (["evaluate"], "required: DIR"),
    ],
)
def test_usage(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        hpc_bnn(*arguments)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def test_too_little_memory_says_what_saves_some(config: Path, told: Any, tmp_path: Path) -> None:
    """A layer of terabytes: the allocation is refused at once."""
    message = told("train", config, "model.hidden=[2000000000]", "--run", tmp_path / "run")
    assert "allocate memory" in message
    assert "lower train.batch_size" in message


def test_a_folder_in_use_is_left_alone(config: Path, told: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert hpc_bnn("train", config, "train.steps=1", "--run", run) == 0
    with hold(run / "lock") or pytest.skip("no locks here"):
        message = told("train", config, "train.steps=1", "--run", run, "--resume")
    assert "is working in this folder" in message
