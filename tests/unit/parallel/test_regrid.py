"""The grid on which a run goes on with the nodes that are left."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpc_bnn.parallel.regrid import Layout, choose_layout, layout_of_run, main


@pytest.mark.parametrize(
    ("nodes", "ranks", "options", "layout"),
    [
        # The nodes of 2 x 2 as before, and with one of them lost.
        (2, 2, {}, Layout(2, 2, 2)),
        (1, 2, {}, Layout(1, 2, 2)),
        (2, 2, {"mode": "sample"}, Layout(2, 2, 4)),
        (1, 2, {"mode": "sample"}, Layout(1, 2, 2)),
        (2, 2, {"mode": "data"}, Layout(2, 2, 1)),
        (3, 4, {"mode": "data"}, Layout(3, 4, 1)),
        # S of before stays where it fits.
        (3, 2, {"sample_ranks": 3}, Layout(3, 2, 3)),
        (2, 2, {"sample_ranks": 3}, Layout(2, 2, 2)),
        # 5 divides neither: of 5 nodes with 4 GPUs, 4 with 4 are used.
        (5, 4, {}, Layout(4, 4, 4)),
        # 7 nodes of 2: 12 ranks as 6 x 2.
        (7, 2, {}, Layout(6, 2, 2)),
        # 3 ranks a node do not divide K = 8, and 2 x 3 would spread a batch over two nodes.
        (2, 3, {"samples": 8}, Layout(2, 3, 1)),
        (1, 1, {"samples": 7, "batch_size": 5}, Layout(1, 1, 1)),
        (2, 4, {"samples": 7, "batch_size": 5}, Layout(1, 1, 1)),
        (5, 1, {"samples": 7, "batch_size": 5}, Layout(5, 1, 1)),
    ],
)
def test_most_ranks_that_divide_samples_and_batch(
    nodes: int, ranks: int, options: dict[str, object], layout: Layout
) -> None:
    given = {"samples": 12, "batch_size": 48, **options}
    assert choose_layout(nodes, ranks, **given) == layout  # type: ignore[arg-type]


def test_every_choice_divides() -> None:
    for nodes in range(1, 6):
        for ranks in range(1, 5):
            for samples in (1, 6, 8, 15):
                for batch in (1, 10, 12):
                    for mode in ("sample", "data", "hybrid", "auto"):
                        found = choose_layout(
                            nodes, ranks, samples=samples, batch_size=batch, mode=mode
                        )
                        assert samples % found.sample_ranks == 0
                        assert batch % found.data_ranks == 0
                        assert found.nodes <= nodes and found.ranks_per_node <= ranks


def test_without_nodes_there_is_none() -> None:
    with pytest.raises(ValueError, match="0 nodes with 4 ranks each: expected at least one"):
        choose_layout(0, 4, samples=8, batch_size=8)


SETTINGS = {
    "grid": {"mode": "auto", "sample_ranks": "auto"},
    "posterior": {"samples": 12},
    "train": {"batch_size": 12},
}


def test_as_many_ranks_as_before_have_the_grid_of_before() -> None:
    """Whatever was measured once: the numbers stay bit for bit."""
    grid = {"sample_ranks": 1, "data_ranks": 4, "nodes": 2}
    assert layout_of_run(SETTINGS, grid, 2, 2) == Layout(2, 2, 1)
    assert layout_of_run(SETTINGS, grid, 1, 2) == Layout(1, 2, 2)
    assert layout_of_run(SETTINGS, None, 2, 2) == Layout(2, 2, 2)


def test_the_command_of_job_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "2", "2"]) == 1
    assert "no run to go on with" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text(str(SETTINGS), encoding="utf-8")
    assert main([str(tmp_path), "1", "2"]) == 0
    assert capsys.readouterr().out == "1 2 grid.mode=hybrid grid.sample_ranks=2\n"


def test_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, hpc_bnn.parallel.regrid as r; r.main(['nowhere', '1', '1']);"
        "print([n for n in ('torch', 'numpy', 'pydantic', 'mpi4py') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
