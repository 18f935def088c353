"""Runs on time series with a calendar: from a CSV file to the scores and pictures of it."""

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
import yaml
from tiny_run import DIGITS, SERIES, hpc_bnn, read_json, written

import hpc_bnn as package

COLUMNS = ["Actual Total Load [MW] - BZN|DE-LU", "Wind [MW]"]
SHOWN = ["Actual Total Load [MW] -\nBZN|DE-LU", "Wind [MW]"]  # in lines of 26 characters
CSV: dict[str, Any] = {
    "name": "series",
    "path": "load.csv",
    "time_column": "MTU (CET/CEST)",
    "time_format": "%d.%m.%Y %H:%M",
    "value_columns": COLUMNS,
    "missing": "skip",
    "units": "MW",
    "history": 12,
    "horizon": 4,
    "calendar": ["hour_of_day", "day_of_week"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and evaluate on half-hourly values of very different size, one of them missing."""
    folder = tmp_path_factory.mktemp("series")
    lines = [",".join(f'"{name}"' for name in ("MTU (CET/CEST)", *COLUMNS))]
    for i in range(480):
        day, hour, minute = 1 + i // 48, i % 48 // 2, 30 * (i % 2)
        load = "n/e" if i == 100 else f"{50000 + 9000 * math.sin(i * math.pi / 24):.1f}"
        lines.append(f'"{day:02d}.01.2020 {hour:02d}:{minute:02d}","{load}","{i % 7}"')
    (folder / "load.csv").write_text("\n".join(lines), encoding="utf-8")
    data = {**CSV, "path": str(folder / "load.csv")}
    settings = written(folder / "csv.yaml", {**SERIES, "data": data})
    assert hpc_bnn("train", settings, "--run", folder / "run") == 0
    assert hpc_bnn("evaluate", folder / "run") == 0
    return folder / "run"


def test_scores_by_level_channel_and_lead_time(run: Path) -> None:
    result = read_json(run / "evaluation.json")
    assert result["lead_time_h"] == [0.5, 1.0, 1.5, 2.0]
    assert sum(result["pit_counts"]) == pytest.approx(result["scores"]["points"])
    levels, losses = result["pinball"]["levels"], result["pinball"]["loss"]
    assert levels == [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    total = result["scores"]
    assert total["pinball"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert list(result["channels"]) == COLUMNS
    channels = [result["channels"][name] for name in COLUMNS]
    # In units of the file, each channel its own: a load in tens of thousands, wind below ten.
    assert channels[0]["rmse"] > 1000 > 10 > channels[1]["rmse"]
    assert total["rmse"] ** 2 == pytest.approx(np.mean([c["rmse"] ** 2 for c in channels]))
    for name in ("crps", "coverage_90", "pinball"):
        assert total[name] == pytest.approx(np.mean([c[name] for c in channels])), name
        for channel in channels:
            over = channel["by_lead_time"][name]
            assert len(over) == 4
            assert np.mean(over) == pytest.approx(channel[name])
    for channel in channels:
        squares = np.square(channel["by_lead_time"]["rmse"])
        assert np.mean(squares) == pytest.approx(channel["rmse"] ** 2)


def test_the_fan_charts_show_every_channel_at_its_dates(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[matplotlib.figure.Figure] = []
    save = matplotlib.figure.Figure.savefig

    def collect(figure: matplotlib.figure.Figure, *arguments: Any, **settings: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", collect)
    assert hpc_bnn("evaluate", run) == 0
    names = sorted(path.name for path in (run / "plots").iterdir())
    assert names == ["forecast.png", "loss.png", "pit.png", "scores.png"]
    fans = [
        axes
        for figure in figures
        for axes in figure.axes
        if "history" in [line.get_label() for line in axes.lines]
    ]
    assert len(fans) == 4
    assert [axes.get_ylabel() for axes in fans[::2]] == [f"{name}\n[MW]" for name in SHOWN]
    for panel, axes in enumerate(fans):  # two windows a row, one channel
        lines = {line.get_label(): line for line in axes.lines}
        # Such as "from 2020-01-08 13:30 CET, CRPS 1500", the first target.
        _, date, clock, zone, _, crps = axes.get_title("left").split()
        assert zone == "CET,"
        assert (float(crps) > 100) == (panel < 2)
        first = 48 * (int(date[-2:]) - 1) + 2 * int(clock[:2]) + int(clock[3:]) // 30
        rows = np.arange(first - 12, first + 4)
        expected = 50000 + 9000 * np.sin(rows * np.pi / 24) if panel < 2 else rows % 7
        times = lines["history"].get_xdata(orig=True)
        assert f"{times[-1] + timedelta(minutes=30):%Y-%m-%d %H:%M %Z}," == f"{date} {clock} {zone}"
        assert np.asarray(lines["history"].get_ydata()) == pytest.approx(expected[:12], abs=0.1)
        assert np.asarray(lines["truth"].get_ydata())[1:] == pytest.approx(expected[12:], abs=0.1)
        assert set(np.diff(times)) == {timedelta(minutes=30)}
    assert axes.get_xlabel() == "time [Europe/Brussels]"


def test_members_have_a_pinball_loss_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SERIES, "loss": {"name": "almost_fair_crps"}}
    settings["data"] = {**SERIES["data"], "calendar": ["day_of_year"]}
    assert hpc_bnn("train", written(tmp_path / "a.yaml", settings), "--run", tmp_path / "a") == 0
    assert hpc_bnn("evaluate", tmp_path / "a") == 0
    result = read_json(tmp_path / "a" / "evaluation.json")
    assert 0 < result["scores"]["pinball"] < result["scores"]["rmse"]
    told = capsys.readouterr().out
    assert "validation spread_skill_ratio" in told
    for absent in ("nan", "nll_per_point", "spread_aleatoric"):
        assert absent not in told


def test_recalibrated_scores_stand_beside_those_before(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpc_bnn("evaluate", run, "--recalibrate", "none") == 0
    plain = read_json(run / "evaluation.json")
    assert "recalibration" not in plain
    assert not (run / "recalibration.json").exists()
    assert hpc_bnn("evaluate", run, "--recalibrate", "conformal") == 0
    result, kept = read_json(run / "evaluation.json"), read_json(run / "recalibration.json")
    of = result["recalibration"]
    assert (of["method"], of["split"], of["level"]) == ("conformal", "validation", 0.9)
    factor = np.array(kept["factor"])
    assert factor.shape == (4, 2)  # lead times, channels
    assert [of["factor"]["least"], of["factor"]["most"]] == [factor.min(), factor.max()]
    assert not np.allclose(factor, 1, atol=0.05)
    # The mean stays: so do its errors, and the scores before are those without.
    assert result["scores"]["rmse"] == pytest.approx(plain["scores"]["rmse"], rel=1e-12)
    assert result["scores"]["crps"] != pytest.approx(plain["scores"]["crps"], rel=1e-6)
    for name in ("rmse", "crps", "coverage_90", "nll_per_point"):
        assert of["before"][name] == pytest.approx(plain["scores"][name], rel=1e-12), name
    # Beside every naive forecast, as one table; six steps of a small network are worse than most.
    assert set(result["skill"]) == set(result["naive"]) >= {"last_value", "climatology"}
    told = capsys.readouterr().out
    assert told.count("warning: better than this forecast: ") == 2
    assert "this forecast" in told
    assert "spread recalibrated on validation" in told
    assert "before recalibration: coverage_90" in told

    # Kept for this checkpoint and number of samples: not fitted again.
    kept["factor"] = [[2.0] * 2] * 4
    (run / "recalibration.json").write_text(json.dumps(kept), encoding="utf-8")
    assert hpc_bnn("evaluate", run, "--recalibrate", "conformal") == 0
    assert read_json(run / "evaluation.json")["recalibration"]["factor"]["least"] == 2.0
    kept["samples"] += 1
    (run / "recalibration.json").write_text(json.dumps(kept), encoding="utf-8")
    assert hpc_bnn("evaluate", run, "--recalibrate", "conformal") == 0
    assert read_json(run / "recalibration.json")["factor"] == factor.tolist()


def test_what_is_no_series_is_not_recalibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = written(tmp_path / "a.yaml", DIGITS)
    assert hpc_bnn("train", settings, "--run", tmp_path / "a") == 0
    assert hpc_bnn("evaluate", tmp_path / "a", "--recalibrate", "conformal") == 2
    assert "evaluation.recalibrate = 'conformal': digits" in capsys.readouterr().err


def test_what_one_member_does_not_define_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SERIES, "loss": {"name": "crps"}}
    settings["posterior"] = {"samples": 1, "predict_samples": 1}
    path, run = written(tmp_path / "a.yaml", settings), tmp_path / "run"
    assert hpc_bnn("train", path, "train.steps=1", "--run", run) == 0
    assert hpc_bnn("evaluate", run) == 0
    assert "nan" not in capsys.readouterr().out
    result, validation = read_json(run / "evaluation.json"), read_json(run / "summary.json")
    assert set(result["scores"]) == {"points", "rmse", "crps", "pinball"}
    assert set(validation["validation"]) == {"points", "rmse", "crps"}
    (channel,) = result["channels"].values()
    assert set(channel) == {"rmse", "crps", "pinball", "by_lead_time"}
    assert "null" not in (run / "evaluation.json").read_text(encoding="utf-8")
    pictures = sorted(path.name for path in (run / "plots").iterdir())
    assert pictures == ["forecast.png", "loss.png", "scores.png"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.calendar=[hour]", "'hour_of_day', 'day_of_week' or 'day_of_year'"),
        ("data.calendar=hour_of_day", "data.calendar"),
        ("data.missing=fill", "'refuse' or 'skip'"),
        ("data.time_zone=Berlin", "no such time zone"),
        ("data.missing=refuse", "line 102: column 'Actual Total Load [MW] - BZN|DE-LU': 'n/e'"),
    ],
)
def test_settings_that_cannot_be_used(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, words: str
) -> None:
    path = run.parent / "csv.yaml"
    assert hpc_bnn("train", path, override, "--run", tmp_path / "run") == 2
    assert words in capsys.readouterr().err


def test_what_the_bundled_example_says_of_csv_files_is_true() -> None:
    """The sections in its comments are settings that the program takes."""
    from hpc_bnn.config import check_options
    from hpc_bnn.data.series.csv_series import series

    bundled = Path(package.__file__).parent / "configs" / "mlp_series.yaml"
    lines = bundled.read_text(encoding="utf-8").splitlines()
    starts = [i for i, line in enumerate(lines) if line == "# data:"]
    assert len(starts) == 2
    for start in starts:
        section = []
        for line in lines[start:]:
            if line != "# data:" and not line.startswith("#   "):
                break
            section.append(line[2:])
        options = yaml.safe_load("\n".join(section))["data"]
        assert options.pop("name") == "series"
        assert check_options("data", series, options) == []
