"""Projections from a machine that obeys the model: exact; what else must be said is said."""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fabricated import make_runs, plan

from hpc_bnn.cli import scaling_commands as commands
from hpc_bnn.files import write_json
from hpc_bnn.group import ALONE
from hpc_bnn.study import scaling_plots
from hpc_bnn.study.collect import Row, collect, write_csv
from hpc_bnn.study.plan_file import Plan
from hpc_bnn.study.points import Point
from hpc_bnn.study.projection import (
    Errors,
    Measured,
    candidates,
    hold_out,
    leave_one_out,
    measured,
    overtaking,
    project,
    read_exchanges,
)
from hpc_bnn.study.projection_report import (
    assumptions,
    ends,
    projection_table,
    record,
    warnings,
)
from hpc_bnn.study.step_model import Exchange, Host, StepModel, Work

COEFFICIENTS = {"fixed": 2e-3, "examples": 1e-4, "draw": 1e-3, "compute": 1e-4, "latency": 2e-4}
MACHINE = StepModel(Host(), COEFFICIENTS, 0.0)
# Nothing was measured between nodes: as within.
FAR = StepModel(Host(), {**COEFFICIENTS, "latency_between": COEFFICIENTS["latency"]}, 0.0)


def time_of(point: Point) -> float:
    work = Work(point.nodes, point.sample_ranks, point.data_ranks, point.samples, point.batch_size)
    return MACHINE.predict(work)


@pytest.fixture
def study(tmp_path: Path) -> Plan:
    made = plan(
        tmp_path,
        kinds=["fixed_samples", "proportional_samples", "growing_batch"],
        ranks=[1, 2, 3, 4],
    )
    make_runs(made, step_time=time_of)
    return made


def table(study: Plan) -> tuple[list[Row], Measured]:
    rows = list(collect(study).rows)
    return rows, measured(rows, study.settings())


def test_each_run_is_one_point(study: Plan) -> None:
    rows, points = table(study)
    runs = {(p.sample_ranks, p.data_ranks, p.samples, p.batch_size) for p in study.points}
    assert len(points.works) == len(runs) < len(rows)
    assert not points.host.joint


def test_errors_of_a_machine_that_obeys_the_model(study: Plan) -> None:
    _, points = table(study)
    found, fits = leave_one_out(points)
    assert found.count == len(points.works) == len(fits)
    assert found.largest < 1e-6
    held = hold_out(points, [3, 4])
    assert held.largest < 1e-6 and held.count == sum(w.ranks > 2 for w in points.works)
    with pytest.raises(ValueError, match=r"--hold-out \[5\]: not measured"):
        hold_out(points, [5])


def test_too_few_points_have_no_error_and_no_range(study: Plan, tmp_path: Path) -> None:
    rows = table(study)[0][:3]
    points = measured(rows, study.settings())
    assert len(points.works) == 3
    found, fits = leave_one_out(points)
    assert fits == []
    assert found.count == 0 and math.isnan(found.median) and math.isnan(found.largest)
    assert str(found) == "unknown: too few points" and found.brief == "unknown"
    model = points.fit()
    assert "unknown" in " ".join(warnings(rows, model, found))
    projected = project(rows, model, fits, ranks_per_node=4, max_ranks=8)
    assert all(math.isnan(p.low_s) and math.isnan(p.high_s) for p in projected)
    assert all(math.isfinite(p.step_time_s) for p in projected)
    lines = projection_table(projected)[1:]
    assert all("unknown" in line and "nan" not in line for line in lines)
    write_json(tmp_path / "p.json", record(model, projected, errors=asdict(found)))
    content = json.loads((tmp_path / "p.json").read_text())
    assert content["errors"] == {"median": None, "largest": None, "worst": "", "count": 0}
    assert content["projected"][0]["low_s"] is content["projected"][0]["high_s"] is None


def test_what_is_unknown_is_said_wherever_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], ranks=[1, 2])
    make_runs(made, step_time=time_of)
    write_csv(made.csv, collect(made).rows)
    titles = []

    def draw(*_: object, title: str) -> Path:
        titles.append(title)
        return tmp_path / "picture.png"

    monkeypatch.setattr(scaling_plots, "plot_projection", draw)
    asked = {"folder": made.folder, "measure": False, "max_ranks": 8, "ranks_per_node": None}
    options = argparse.Namespace(**asked, hold_out=None, latency_us=None, bandwidth_gbs=None)
    lines, status = commands.SCALING["scaling project"](options, ALONE)
    assert status == 0
    assert "error leaving one point out: unknown: too few points" in lines
    assert [line for line in lines if line.startswith("warning: too few points")]
    assert titles == ["2 ranks a node; error leaving one out: unknown"]
    content = json.loads((made.folder / "projection.json").read_text(encoding="utf-8"))
    assert content["errors"]["leaving one point out"]["median"] is None
    assert not any("nan" in line for line in lines)


def test_errors_as_text() -> None:
    found = Errors(0.031, 0.12, "2 x 1", 9)
    assert found.brief == "3% (median)"
    assert str(found) == "median 3.1%, largest 12.0% (2 x 1), 9 points"


def test_projected_grids_are_the_best_and_fit(study: Plan) -> None:
    rows, points = table(study)
    model = points.fit()
    found = project(rows, model, leave_one_out(points)[1], ranks_per_node=4, max_ranks=64)
    weak = {p.ranks: p for p in found if p.kind == "proportional_samples"}
    assert list(weak) == [1, 2, 4, 8, 16, 32, 64]
    assert (weak[64].nodes, weak[64].samples, weak[64].batch_size) == (16, 12 * 64, 12)
    for p in found:
        assert p.samples % p.sample_ranks == p.batch_size % p.data_ranks == 0
        assert p.sample_ranks * p.data_ranks == p.ranks
        best = Work(p.nodes, p.sample_ranks, p.data_ranks, p.samples, p.batch_size)
        assert p.step_time_s == pytest.approx(FAR.predict(best), rel=1e-6)
        assert p.low_s <= p.step_time_s <= p.high_s
        assert sum(p.parts_s.values()) == pytest.approx(p.step_time_s)
    # 12 samples and 12 examples: 144 shares at most, on 1, 2, 4, 8 and 16 ranks.
    assert [p.ranks for p in found if p.kind == "fixed_samples"] == [1, 2, 4, 8, 16]
    (text,) = [text for text in ends(found, 64) if text.startswith("fixed_samples")]
    assert "beyond 16 ranks" in text


def test_candidates() -> None:
    base: Row = {"ranks": 2, "samples": 6, "batch_size": 4}
    grids = {(w.sample_ranks, w.data_ranks) for w in candidates("fixed_samples", base, 4, 4)}
    assert grids == {(1, 4), (2, 2)}
    (work, *_) = candidates("growing_batch", base, 6, 3)
    assert (work.nodes, work.samples, work.batch_size) == (2, 6, 12)
    assert not list(candidates("fixed_samples", base, 6, 4))  # nodes would not be full
    assert not list(candidates("proportional_samples", base | {"samples": 1}, 3, 4))


def test_overtaking(study: Plan) -> None:
    rows, points = table(study)
    sizes = {"ranks_per_node": 4, "max_ranks": 64}
    # Examples cost little here and samples much, so the sample axis wins wherever there is one.
    texts = overtaking(rows, points.fit(), **sizes)
    assert all("does not overtake" in text for text in texts)
    assert "pure sampling ends at 4 ranks" in texts[0]
    dear = {"fixed": 1e-3, "examples": 1e-2, "draw": 1e-5, "compute": 1e-5}
    texts = overtaking(rows, StepModel(Host(), dear, 0.0), **sizes)
    assert texts[0].startswith(
        "fixed_samples: data parallelism overtakes sampling parallelism at 2"
    )


def test_what_is_assumed(study: Plan) -> None:
    rows, points = table(study)
    model = points.fit()
    assert "one node was measured" in " ".join(assumptions(points, model, 4))
    given = measured(rows, study.settings(), known={"latency_between": 1e-3})
    text = " ".join(assumptions(given, given.fit(), 8))
    assert "as given with --latency-us" in text
    assert "8 ranks a node share it as the fit to 4 says" in text
    timed = measured(rows, study.settings(), exchanges=[Exchange(4, 2, 8, 1e-3)])
    assert "as timed exchanges say" in " ".join(assumptions(timed, timed.fit(), 4))


def test_what_speaks_against_a_projection(study: Plan) -> None:
    rows, points = table(study)
    left_out, _ = leave_one_out(points)
    assert warnings(rows, points.fit(), left_out) == []
    noisy = [{**rows[0], "flags": "noisy"}, *rows[1:]]
    bad = StepModel(Host(), COEFFICIENTS, 1.0)
    said = " ".join(warnings(noisy, bad, Errors(0.3, 0.5, "", 9)))
    assert f"1 of {len(rows)} rows are noisy" in said
    assert "30%, above 15%" in said and "contention is at its limit" in said


def test_record(study: Plan, tmp_path: Path) -> None:
    rows, points = table(study)
    model = points.fit()
    projected = project(rows, model, [], ranks_per_node=4, max_ranks=8)
    content: dict[str, Any] = json.loads(json.dumps(record(model, projected, errors={})))
    assert content["coefficients_s"]["compute"] == pytest.approx(1e-4)
    assert content["projected"][0]["ranks"] == 1
    assert read_exchanges(tmp_path / "absent.json") == []
