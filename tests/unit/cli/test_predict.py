"""``hpc-bnn predict``: what follows a series, exact values by hand, and what is refused."""

import copy
import csv
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import torch
from tiny_run import SERIES, hpc_bnn, written
from torch import Tensor

import hpc_bnn as hb
from hpc_bnn.data.series.synthetic import load_like
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.score.prediction import SeriesPrediction
from hpc_bnn.train.score.trained import load_trained
from hpc_bnn.verify.scores import mixture_quantile

HISTORY, HORIZON = 12, 4


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def load_table(path: Path, count: int, *, zone: str = "", first: str = "2024-03-30") -> Path:
    """Write two series a and b, hourly, in local time where there is a zone."""
    start = datetime.fromisoformat(first)
    if zone:
        start = start.replace(tzinfo=ZoneInfo(zone)).astimezone(ZoneInfo("UTC"))
    lines = ["time,where,load,wind"]
    for name, level in (("a", 10.0), ("b", 50.0)):
        for hour in range(count):
            at = start + timedelta(hours=hour)
            text = f"{at.astimezone(ZoneInfo(zone)) if zone else at:%Y-%m-%d %H:%M}"
            lines.append(f"{text},{name},{level + hour % 24},{level - hour % 7}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def config(folder: Path, data: dict[str, Any] | None = None) -> Path:
    settings = copy.deepcopy(SERIES)
    settings["data"] = data or settings["data"]
    return written(folder / "a.yaml", settings)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    assert hpc_bnn("train", config(folder), "--run", folder / "run") == 0
    return folder / "run"


def by_hand(run: Path, history: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return means and standard deviations (K, P) after a history (H,) in physical units."""
    trained = load_trained(World(Grid(1, 1, 0), torch.device("cpu")), RunFolder(run))
    values = load_like(300, 1, 0, noise=0.04, correlation=0.9)[:210, 0]  # of the training
    mean, std = values.mean(), values.std(correction=0)
    x = ((history - mean) / std).float().double().reshape(1, HISTORY, 1)
    output = trained.parts.posterior.predict(x, samples=samples)
    mu, sigma = trained.parts.loss.forecast(output)
    assert sigma is not None
    return (mean + std * mu)[:, 0, :, 0], (std * sigma)[:, 0, :, 0]


def test_the_rows_behind_the_last_are_those_of_the_posterior(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tomorrow.csv"
    assert hpc_bnn("predict", synthetic, "-o", out) == 0
    assert "2001-01-13 12:00 to 2001-01-13 15:00, 4 weight samples after step 6" in (
        capsys.readouterr().out
    )
    values = load_like(300, 1, 0, noise=0.04, correlation=0.9)[:, 0]
    mean, sigma = by_hand(synthetic, values[-HISTORY:], 4)
    table = rows(out)
    assert [row["time"] for row in table] == [
        f"2001-01-13T{hour}:00:00+00:00" for hour in range(12, 16)
    ]
    assert {row["channel"] for row in table} == {"synthetic_load_0"}
    expected = {
        "mean": mean.mean(0),
        "std": (mean.var(0, correction=0) + sigma.square().mean(0)).sqrt(),
        "q05": mixture_quantile(mean, sigma, 0.05),
        "q95": mixture_quantile(mean, sigma, 0.95),
    }
    for column, numbers in expected.items():
        assert [float(row[column]) for row in table] == pytest.approx(numbers.tolist(), rel=1e-6)
    drawn = rows(tmp_path / "tomorrow-samples.csv")
    assert list(drawn[0]) == ["time", "channel", *(f"sample_{k}" for k in range(4))]
    away = torch.tensor([[float(row[f"sample_{k}"]) for row in drawn] for k in range(4)]) - mean
    assert bool((away.abs() < 5 * sigma).all()) and bool((away.abs() > 0).all())
    assert (tmp_path / "tomorrow.png").read_bytes()[1:4] == b"PNG"


def test_from_a_time_in_the_past_and_again(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "past.csv"
    for _ in range(2):  # it replaces its own
        command = ("predict", synthetic, "--from", "2001-01-12T00:00", "--samples", 2)
        assert hpc_bnn(*command, "-o", out) == 0
    values = load_like(300, 1, 0, noise=0.04, correlation=0.9)[:, 0]
    mean, _ = by_hand(synthetic, values[264 - HISTORY : 264], 2)
    assert [float(row["mean"]) for row in rows(out)] == pytest.approx(
        mean.mean(0).tolist(), rel=1e-6
    )


def test_an_option_for_images_is_refused(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn("predict", synthetic, "--resize", "-o", tmp_path / "a.csv") == 2
    assert "--resize is for images: synthetic_series" in capsys.readouterr().err


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on local times across the clock change of 31 March 2024; its file is deleted."""
    folder = tmp_path_factory.mktemp("grouped")
    table = load_table(folder / "load.csv", 200, zone="Europe/Berlin")
    data = {
        "name": "series",
        "path": str(table),
        "time_column": "time",
        "group_column": "where",
        "value_columns": ["load", "wind"],
        "time_zone": "Europe/Berlin",
        "calendar": ["hour_of_day"],
        "history": HISTORY,
        "horizon": HORIZON,
    }
    assert hpc_bnn("train", config(folder, data), "--run", folder / "run") == 0
    table.unlink()
    return folder / "run"


def test_a_new_file_without_that_of_the_training(grouped: Path, tmp_path: Path) -> None:
    """The scale is that of the training; clocks are local, across a clock change."""
    new = load_table(tmp_path / "new.csv", 24, zone="Europe/Berlin", first="2024-10-26T02:00")
    out = tmp_path / "out.csv"
    assert hpc_bnn("predict", grouped, "--input", new, "-o", out) == 0
    table = rows(out)
    assert len(table) == 2 * HORIZON * 2
    assert [row["time"] for row in table if row["series"] == "b" and row["channel"] == "wind"] == [
        "2024-10-27T02:00:00+02:00",
        "2024-10-27T02:00:00+01:00",
        "2024-10-27T03:00:00+01:00",
        "2024-10-27T04:00:00+01:00",
    ]
    trained = load_trained(
        World(Grid(1, 1, 0), torch.device("cpu")), RunFolder(grouped), reads=False
    )
    scale = trained.parts.source.scale
    assert scale is not None
    values = torch.tensor([[50.0 + h % 24, 50.0 - h % 7] for h in range(24)], dtype=torch.float64)
    x = ((values[-HISTORY:] - scale.mean) / scale.std).float().flatten()
    turn = 2 * torch.pi * torch.tensor([2, 2, 3, 4], dtype=torch.float64) / 24
    known = torch.stack([turn.sin(), turn.cos()], 1).float().flatten()
    output = trained.parts.posterior.predict(torch.cat([x, known])[None].double(), samples=4)
    mean = scale.physical(trained.parts.loss.forecast(output)[0].mean(0))[0]
    got = [float(row["mean"]) for row in table if row["series"] == "b"]
    assert got == pytest.approx(mean.flatten().tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--from", "2024-10-26T05:00"), r"expected a time from 2024-10-26T14:00:00"),
        (("--from", "2024-10-28T05:00"), r"to 2024-10-27T02:00:00: 12 rows of the file must lie"),
        (("--from", "2024-10-26T20:30"), r"no row of the series, whose step is 1:00:00"),
        (("--from", "tomorrow"), r"not a time; expected ISO 8601"),
        (("--samples", "0"), r"expected a whole number"),
        (("-o", "out.nc"), r"expected the name of a CSV file, such as out.csv"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    grouped: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    new = load_table(tmp_path / "new.csv", 24, zone="Europe/Berlin", first="2024-10-26T02:00")
    output = () if "-o" in arguments else ("-o", tmp_path / "out.csv")
    try:
        status = hpc_bnn("predict", grouped, "--input", new, *output, *arguments)
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else 1
    assert status == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_file_that_no_prediction_wrote_is_kept(
    grouped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = load_table(tmp_path / "new.csv", 24, zone="Europe/Berlin")
    before = new.read_bytes()
    assert hpc_bnn("predict", grouped, "--input", new, "-o", new) == 2
    assert "is there already and is no prediction of hpc-bnn" in capsys.readouterr().err
    assert new.read_bytes() == before


def test_in_a_script_a_run_predicts_in_the_units_of_its_data(
    grouped: Path, synthetic: Path, tmp_path: Path
) -> None:
    new = load_table(tmp_path / "new.csv", 24, zone="Europe/Berlin", first="2024-10-26T02:00")
    assert hpc_bnn("predict", grouped, "--input", new, "-o", tmp_path / "out.csv") == 0
    table = rows(tmp_path / "out.csv")
    run = hb.load(grouped)
    assert run.scale is not None and run.scale.channels == ("load", "wind")
    history = torch.tensor([[10.0 + h % 24, 10.0 - h % 7] for h in range(24)])[-HISTORY:]
    times = [datetime(2024, 10, 27, hour) for hour in (2, 2, 3, 4)]
    found = run.predict(history, times=times)
    assert isinstance(found, SeriesPrediction)
    of_a = [row for row in table if row["series"] == "a"]
    assert found.quantile(0.05)[0].flatten().tolist() == pytest.approx(
        [float(row["q05"]) for row in of_a], rel=1e-6
    )
    assert found.samples.shape == (4, 1, HORIZON, 2)
    with pytest.raises(ValueError, match=r"0 times: expected those of the 4 rows"):
        run.predict(history)
    with pytest.raises(ValueError, match=r"shape \(3, 2\): expected \(B, 12, 2\)"):
        run.predict(history[:3], times=times)
    other = hb.load(synthetic)
    values = load_like(300, 1, 0, noise=0.04, correlation=0.9)
    mean, _ = by_hand(synthetic, values[-HISTORY:, 0], 2)
    predicted = other.predict(values[-HISTORY:], samples=2)
    assert isinstance(predicted, SeriesPrediction)
    torch.testing.assert_close(predicted.mean[:, 0, :, 0], mean, rtol=1e-6, atol=0)


def test_calibrated_the_spread_is_stretched_and_the_mean_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert hpc_bnn("train", config(tmp_path), "--run", run) == 0
    assert hpc_bnn("predict", run, "-o", tmp_path / "plain.csv") == 0
    assert hpc_bnn("predict", run, "--calibrated", "-o", tmp_path / "told.csv") == 0
    assert "recalibrated on validation" in capsys.readouterr().out
    factors = json.loads((run / "recalibration.json").read_text(encoding="utf-8"))["factor"]
    plain, told = rows(tmp_path / "plain.csv"), rows(tmp_path / "told.csv")
    drawn = [rows(tmp_path / f"{name}-samples.csv") for name in ("plain", "told")]
    for p, (factor,) in enumerate(factors):
        assert factor != 1
        mean = float(plain[p]["mean"])
        assert float(told[p]["mean"]) == pytest.approx(mean, rel=1e-6)
        for q in ("q05", "q75", "q95"):
            expected = mean + factor * (float(plain[p][q]) - mean)
            assert float(told[p][q]) == pytest.approx(expected, rel=1e-5)
        before, after = (float(each[p]["sample_1"]) for each in drawn)
        assert after - mean == pytest.approx(factor * (before - mean), rel=1e-3)
