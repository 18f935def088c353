"""scaling.csv from run folders with known times, and with every fault."""

import math
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from fabricated import ideal, make_run, make_runs, plan

from hpc_bnn.files import write_json
from hpc_bnn.study.collect import COLUMNS, Row, collect, format_collection, read_csv, write_csv
from hpc_bnn.study.launch import Attempt
from hpc_bnn.study.points import Point


def row_of(rows: Any, kind: str, mode: str, ranks: int) -> Row:
    (found,) = [r for r in rows if (r["kind"], r["mode"], r["ranks"]) == (kind, mode, ranks)]
    return found


def slow(point: Point) -> float:
    """Add to the ideal time what does not shrink: 36 ms."""
    return ideal(point) + 0.036


def test_ideal_scaling(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples", "proportional_samples", "growing_batch"])
    make_runs(made)
    found = collect(made)
    assert not found.absent and not found.mixed
    for row in found.rows:
        assert row["efficiency"] == pytest.approx(1)
        assert row["speedup"] == pytest.approx(row["ranks"])
        assert (row["repeats"], row["timed_steps"], row["flags"]) == (3, 30, "")
        assert row["step_time_min_s"] == pytest.approx(row["step_time_max_s"])
        assert row["sample_examples_per_s"] == pytest.approx(row["ranks"] * 1000)
        assert row["forward_s"] == pytest.approx(row["step_time_s"] / 2)
        assert row["backward_s"] is None
        assert row["peak_memory_bytes"] == 3000


def test_speed_up_and_efficiency_of_each_kind(tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made, step_time=slow)
    rows = collect(made).rows
    # 144 ms of work and 36 ms that stay: 180, 108 and 72 ms on 1, 2 and 4 ranks.
    fixed = row_of(rows, "fixed_samples", "sample", 4)
    assert fixed["step_time_s"] == pytest.approx(0.072)
    assert fixed["speedup"] == pytest.approx(2.5)
    assert fixed["efficiency"] == pytest.approx(2.5 / 4)
    assert fixed["definition"] == "n1*T1/(n*Tn)"
    assert fixed["baseline"] == "local 1"
    growing = row_of(rows, "proportional_samples", "data", 4)
    assert growing["step_time_s"] == pytest.approx(0.180)
    assert growing["speedup"] == pytest.approx(4)
    assert growing["efficiency"] == pytest.approx(1)
    assert growing["definition"] == "T1/Tn"


def test_repeats_make_the_range_of_efficiency(tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made, step_time=lambda point: ideal(point) * (1 + 0.01 * (point.repeat - 2)))
    row = row_of(collect(made).rows, "fixed_samples", "sample", 2)
    assert row["efficiency"] == pytest.approx(1)
    assert row["efficiency_low"] == pytest.approx(0.99 / 1.01)
    assert row["efficiency_high"] == pytest.approx(1.01 / 0.99)
    assert row["spread_of_repeats"] == pytest.approx(0.02)


def test_baselines_are_in_the_same_mode_or_local(tmp_path: Path) -> None:
    made = plan(tmp_path, ranks=[2, 4])
    make_runs(made, step_time=lambda point: ideal(point) * (2 if point.sample_ranks == 1 else 1))
    rows = collect(made).rows
    for mode in ("sample", "data"):
        assert row_of(rows, "fixed_samples", mode, 4)["baseline"] == f"{mode} 2"
        assert row_of(rows, "fixed_samples", mode, 4)["speedup"] == pytest.approx(2)


def test_without_its_baseline_a_point_has_no_efficiency(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for point in made.points:
        if point.ranks > 1:
            make_run(made, point)
    found = collect(made)
    assert {outcome.state for outcome in found.absent} == {"missing"}
    for row in found.rows:
        assert row["efficiency"] is None and "no_baseline" in row["flags"]


def test_missing_failed_and_unfinished_points_are_named(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["sample"], ranks=[1, 2])
    missing, failed, ended, short, damaged, good = made.points
    made.attempt(failed).parent.mkdir()
    for point, status in ((failed, 2), (ended, None)):
        write_json(made.attempt(point), vars(Attempt(point.name, status, 1.0, "", 2, 1, False)))
    make_run(made, short, steps=4)
    make_run(made, damaged)
    made.run_folder(damaged).summary.write_text("{", encoding="utf-8")
    make_run(made, good)
    found = collect(made)
    assert {o.point.name: o.state for o in found.absent} == {
        missing.name: "missing",
        failed.name: "failed",
        ended.name: "failed",
        short.name: "unfinished",
        damaged.name: "unfinished",
    }
    text = "\n".join(format_collection(found))
    assert f"missing: {missing.name}: " in text
    assert f"failed: {failed.name}: status 2, output in " in text
    assert f"failed: {ended.name}: timed out" in text
    assert f"unfinished: {short.name}: 4 of 12 steps" in text
    assert [row["runs"] for row in found.rows] == [good.name]


@pytest.mark.parametrize(
    ("what", "values", "said"),
    [
        ("versions", {"versions": {"hpc_bnn": "2", "torch": "2"}}, "hpc_bnn 2, torch 2"),
        ("device", {"device": "cuda"}, "most points have cpu, but"),
        ("hosts", {"hosts": ["b"]}, "most points have a, but"),
        ("hosts", {"hosts": []}, ": none"),
        ("grid", {"grid": {"sample_ranks": 1, "data_ranks": 1, "nodes": 2}}, "1 x 1 on 2 node(s)"),
    ],
)
def test_mixtures_are_refused_or_marked(
    tmp_path: Path, what: str, values: dict[str, Any], said: str
) -> None:
    made = plan(tmp_path)
    odd = made.points[0]
    for point in made.points:
        make_run(made, point, **(values if point == odd else {}))
    with pytest.raises(ValueError, match=f"mixed {what}") as caught:
        collect(made)
    assert odd.name in str(caught.value) and said in str(caught.value)
    assert "--allow-mixed" in str(caught.value)
    rows = collect(made, allow_mixed=True).rows
    marked = [row for row in rows if f"mixed_{what}" in row["flags"]]
    assert {(row["kind"], row["ranks"]) for row in marked} == {(kind, 1) for kind, _ in odd.series}


def test_mixed_settings(tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made)
    point = made.points[2]
    config = made.run_folder(point).config
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("seed: 3", "seed: 5"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"mixed settings.*seed = 5 instead of 3"):
        collect(made)
    samples = f"samples: {point.samples}"
    config.write_text(text.replace(samples, "samples: 7"), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"posterior\.samples = 7 instead of {point.samples}"):
        collect(made)


def test_small_points_may_use_part_of_the_nodes(tmp_path: Path) -> None:
    made = plan(tmp_path, ranks=None, nodes=[1, 2], ranks_per_node=2)
    for point in made.points:
        make_run(made, point, hosts=["b", "a"][: point.nodes])
    assert not collect(made).mixed


def test_summaries_without_hosts_device_and_phases(tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made, hosts=None, device=None, phases_s=None, communication_share=None)
    found = collect(made)
    assert not found.mixed
    assert found.rows[0]["forward_s"] is None


def test_flags(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["sample"], repeats=2)
    make_runs(made, jitter=0.2, final_loss=None, restarts=1)
    rows = collect(made).rows
    assert {row["flags"] for row in rows} == {"few_repeats nan_loss noisy restarted"}
    assert rows[0]["final_loss"] is None


def test_truncated_metrics(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["sample"], ranks=[1])
    make_runs(made)
    for point, cut in zip(made.points, (0.9, 0.4, 0.0), strict=True):
        path = made.run_folder(point).metrics
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: int(cut * len(text))], encoding="utf-8")
    found = collect(made)
    assert [o.point.repeat for o in found.absent] == [3]
    assert "0 of them timed" in found.absent[0].why
    (row,) = found.rows
    assert row["flags"] == "few_repeats truncated"
    assert row["step_time_s"] == pytest.approx(0.144)


def test_csv_round_trip(tmp_path: Path) -> None:
    made = plan(tmp_path)
    make_runs(made, energy_j=12.5)
    rows = collect(made).rows
    write_csv(made.csv, rows)
    again = read_csv(made.csv)
    assert list(again[0]) == list(COLUMNS)
    for row, back in zip(rows, again, strict=True):
        for key in COLUMNS:
            value = row.get(key)
            value = None if value == "" else value
            if isinstance(value, float):
                assert math.isclose(back[key], value, rel_tol=1e-8), key
            else:
                assert back[key] == value, key
    with pytest.raises(FileNotFoundError, match="scaling collect"):
        read_csv(tmp_path / "scaling.csv")


def test_the_median_is_over_all_steps_of_all_repeats(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["sample"], ranks=[1])
    make_runs(made, jitter=0.01, step_time=lambda point: 0.1 * point.repeat)
    (row,) = collect(made).rows
    times = [0.1 * r * (1 + 0.01 * (s % 2)) for r in (1, 2, 3) for s in range(2, 12)]
    assert row["step_time_s"] == pytest.approx(median(times))
    assert row["step_time_max_s"] == pytest.approx(0.303)
