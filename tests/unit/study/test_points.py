"""Arithmetic of a plan: what stays, what grows, what divides, what is shared."""

import time
from itertools import product
from pathlib import Path

import pytest
from fabricated import plan
from hypothesis import given
from hypothesis import strategies as st

from hpc_bnn.config import SettingsError, load_settings
from hpc_bnn.parallel.grid import Grid, choose_sample_ranks
from hpc_bnn.study.plan_file import make_plan, read_plan, table, write_plan
from hpc_bnn.study.points import make_points, sizes
from hpc_bnn.study.study_file import KINDS, Study

ranks_lists = st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True)
kind_lists = st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True)


def study(**keys: object) -> Study:
    given = {"config": "a.yaml", "kinds": ["fixed_samples"], "modes": ["sample", "data"], **keys}
    return Study.model_validate(given)


@given(ranks_lists, kind_lists, st.integers(1, 48), st.integers(1, 48), st.integers(1, 3))
def test_every_point_of_a_plan_can_run(
    ranks: list[int], kinds: list[str], samples: int, batch_size: int, repeats: int
) -> None:
    made = study(ranks=ranks, kinds=kinds, repeats=repeats)
    try:
        points = make_points(made, samples=samples, batch_size=batch_size)
    except SettingsError as error:
        assert error.problems
        return
    base = min(ranks)
    assert len({point.name for point in points}) == len(points)
    for point in points:
        assert point.sample_ranks * point.data_ranks == point.ranks
        grid = Grid(point.sample_ranks, point.data_ranks, point.ranks - 1)
        assert len(grid.own_samples(point.samples)) * point.sample_ranks == point.samples
        assert len(grid.own_examples(point.batch_size)) * point.data_ranks == point.batch_size
        for kind, mode in point.series:
            grown = (point.samples * base, point.batch_size * base)
            factors = {
                "fixed_samples": (base, base),
                "fixed_batch": (base, base),
                "proportional_samples": (point.ranks, base),
                "growing_batch": (base, point.ranks),
            }[kind]
            assert grown == (samples * factors[0], batch_size * factors[1])
            if mode != "hybrid":
                expected = choose_sample_ranks(point.ranks, 1, mode=mode)
                assert point.sample_ranks == expected
    shown = {(kind, mode, p.ranks) for p in points for kind, mode in p.series}
    assert shown == {(s.kind, s.mode, s.ranks) for s in sizes(made)}


@given(ranks_lists, kind_lists, st.integers(1, 30), st.integers(1, 30))
def test_what_the_error_advises_fits(
    ranks: list[int], kinds: list[str], samples: int, batch_size: int
) -> None:
    made = study(ranks=ranks, kinds=kinds)
    try:
        make_points(made, samples=samples, batch_size=batch_size)
    except SettingsError as error:
        advised = {"posterior.samples": samples, "train.batch_size": batch_size}
        for text in error.problems:
            for key in advised:
                if f"set {key} to " in text:
                    advised[key] = int(text.partition(f"set {key} to ")[2].split(",")[0].split()[0])
        if all("set " in text for text in error.problems):
            assert make_points(
                made,
                samples=advised["posterior.samples"],
                batch_size=advised["train.batch_size"],
            )


def test_repeats_are_interleaved() -> None:
    points = make_points(study(ranks=[1, 2, 4], repeats=3), samples=8, batch_size=8)
    rounds = [[p.name.rpartition("-")[0] for p in points if p.repeat == r] for r in (1, 2, 3)]
    assert rounds[0] == rounds[1] == rounds[2]
    assert [p.repeat for p in points] == sorted(p.repeat for p in points)


def test_runs_that_are_the_same_are_made_once() -> None:
    made = study(ranks=[1, 2], kinds=["fixed_samples", "fixed_batch"], repeats=1)
    points = make_points(made, samples=2, batch_size=2)
    assert [(p.sample_ranks, p.data_ranks) for p in points] == [(1, 1), (1, 2), (2, 1)]
    assert points[0].series == (("fixed_samples", "local"), ("fixed_batch", "local"))
    assert points[1].series == (("fixed_samples", "data"), ("fixed_batch", "data"))
    assert points[2].series == (("fixed_samples", "sample"),)


def test_nodes_and_hybrid() -> None:
    made = study(
        nodes=[1, 2, 4], ranks_per_node=4, modes=["hybrid"], kinds=["proportional_samples"],
        repeats=1,
    )  # fmt: skip
    points = make_points(made, samples=8, batch_size=8)
    assert [(p.nodes, p.ranks, p.sample_ranks, p.data_ranks, p.samples) for p in points] == [
        (1, 4, 4, 1, 8), (2, 8, 4, 2, 16), (4, 16, 4, 4, 32)
    ]  # fmt: skip


def test_numbers_that_do_not_divide_are_told_with_the_nearest_that_do() -> None:
    with pytest.raises(SettingsError) as caught:
        make_points(study(ranks=[1, 2, 3]), samples=8, batch_size=10)
    samples, batch = caught.value.problems
    assert samples.startswith("fixed_samples, mode sample, 3 ranks: posterior.samples = 8: the 3 ")
    assert "set posterior.samples to 6 or 12" in samples
    assert "train.batch_size = 10: the 3 data rank(s)" in batch
    assert "set train.batch_size to 6 or 12" in batch
    grows = study(ranks=[2, 3], kinds=["proportional_samples"], modes=["sample"])
    with pytest.raises(SettingsError, match=r"posterior\.samples = 9/2, grown from 3 on 2 ranks"):
        make_points(grows, samples=3, batch_size=1)
    with pytest.raises(
        SettingsError, match=r"hybrid on 3 ranks: the 2 sample ranks .* 2 or 4 rank"
    ):
        sizes(study(ranks=[1, 3], modes=["hybrid"], sample_ranks=2))


def test_the_nearest_numbers_are_found_at_once_whatever_the_number() -> None:
    start = time.process_time()
    for number in (17, 10**15 + 1):
        with pytest.raises(SettingsError) as caught:
            grows = study(ranks=[2, 3, 4], kinds=["proportional_samples"], modes=["sample"])
            make_points(grows, samples=number, batch_size=1)
        # K ranks / 2 has to be whole and a multiple of the ranks: K even.
        either = {17: "16 or 18", 10**15 + 1: f"{10**15} or {10**15 + 2}"}[number]
        assert f"set posterior.samples to {either}" in str(caught.value)
    assert time.process_time() - start < 0.5


def test_overrides_make_the_settings_of_the_point(tmp_path: Path) -> None:
    made = plan(tmp_path)
    for point in made.points:
        settings = load_settings(made.settings_file, point.overrides)
        assert settings.grid.sample_ranks == point.sample_ranks
        assert settings.posterior.samples == point.samples
        assert settings.train.batch_size == point.batch_size
        assert settings.train.steps == made.study.steps


@pytest.mark.parametrize("modes", [["sample", "data"], {"sample": [1, 2], "data": [4]}])
def test_a_plan_reads_back_the_same(tmp_path: Path, modes: object) -> None:
    made = plan(tmp_path, modes=modes)
    again, settings = make_plan(tmp_path / "study.yaml", tmp_path / "runs")
    assert read_plan(tmp_path / "runs") == made == again
    write_plan(again, settings)
    lines = (tmp_path / "runs" / "points.tsv").read_text().splitlines()
    fields = [line.split("\t") for line in lines]
    assert [(f[0], int(f[1]) * int(f[2]), tuple(f[3:])) for f in fields] == [
        (p.name, p.ranks, p.overrides) for p in made.points
    ]
    with pytest.raises(ValueError, match="holds another plan"):
        plan(tmp_path, repeats=4)


def test_what_a_plan_warns_of(tmp_path: Path) -> None:
    made = plan(tmp_path, repeats=2, kinds=["fixed_samples", "growing_batch"])
    text = "\n".join(table(made))
    assert "warning: 2 repeat(s)" in text
    assert "growing_batch: not in mode sample" in text
    assert f"{len(made.points)} runs of 12 steps, in 2 round(s)" in text


def test_broken_plans(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no plan; make one with"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a plan"):
        read_plan(tmp_path)


def test_settings_changed_after_the_plan(tmp_path: Path) -> None:
    made = plan(tmp_path)
    text = made.settings_file.read_text(encoding="utf-8")
    made.settings_file.write_text(text.replace("seed: 3", "seed: 4"), encoding="utf-8")
    with pytest.raises(ValueError, match="was changed after the plan was made"):
        made.settings()


def test_shared_grid_arithmetic() -> None:
    for ranks, mode in product((1, 2, 4, 6), ("sample", "data")):
        (size,) = sizes(study(ranks=[ranks], modes=[mode]))
        assert size.mode == ("local" if ranks == 1 else mode)
        assert size.data_ranks * size.sample_ranks == ranks


def test_every_step_of_a_study_is_of_the_first_rollout(tmp_path: Path) -> None:
    overrides = ["train.rollout={0: 3, 2: 4}"]
    made = plan(tmp_path, config="demo.yaml", overrides=overrides, ranks=[1, 2])
    for point in made.points:
        own = load_settings(made.settings_file, point.overrides)
        assert own.train.rollout == {0: 3}
