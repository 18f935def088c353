"""Pictures of a study: each is drawn where there is something to draw."""

from pathlib import Path

import pytest
from fabricated import ideal, make_runs, plan

from hpc_bnn.study.collect import collect
from hpc_bnn.study.outcomes import read_outcomes
from hpc_bnn.study.projection import leave_one_out, measured, project
from hpc_bnn.study.scaling_plots import plot_projection, plot_study

PNG = b"\x89PNG\r\n\x1a\n"
ALL = ["fixed_samples", "proportional_samples", "fixed_batch", "growing_batch"]


@pytest.mark.parametrize("kinds", [ALL, ["growing_batch"]])
def test_every_picture(tmp_path: Path, kinds: list[str]) -> None:
    made = plan(tmp_path, kinds=kinds, modes=["sample", "data"])
    make_runs(made, step_time=lambda p: 0.01 + ideal(p))
    rows = list(collect(made).rows)
    drawn = plot_study(rows, read_outcomes(made), tmp_path / "pictures")
    assert [path.name for path in drawn] == ["scaling.png", "memory.png", "phases.png", "loss.png"]
    points = measured(rows, made.settings())
    projected = project(
        rows, points.fit(), leave_one_out(points)[1], ranks_per_node=4, max_ranks=64
    )
    drawn.append(plot_projection(projected, rows, tmp_path / "projection.png", title="t"))
    unsure = project(rows, points.fit(), [], ranks_per_node=4, max_ranks=64)
    drawn.append(plot_projection(unsure, rows, tmp_path / "unsure.png", title="t"))
    assert all(path.read_bytes().startswith(PNG) for path in drawn)


def test_what_is_not_there_is_not_drawn(tmp_path: Path) -> None:
    made = plan(tmp_path, kinds=["fixed_samples"], modes=["local"], ranks=[1])
    make_runs(made, phases_s=None)
    names = [p.name for p in plot_study(list(collect(made).rows), [], tmp_path / "pictures")]
    assert names == ["scaling.png", "memory.png"]
    with pytest.raises(ValueError, match="holds no rows"):
        plot_study([], [], tmp_path)
