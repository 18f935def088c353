"""The grid on which a run goes on with the nodes that are left: pure arithmetic, and the command of
job scripts, which imports nothing that takes time.

    python -m hpc_bnn.parallel.regrid RUN NODES RANKS_PER_NODE

prints the number of nodes, ranks on each, and the settings of their grid:

    1 2 grid.mode=hybrid grid.sample_ranks=2
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_bnn.parallel.grid import divisors


@dataclass(frozen=True)
class Layout:
    """Ranks on nodes, equally many on each, and the S sample ranks of their grid."""

    nodes: int
    ranks_per_node: int
    sample_ranks: int

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    @property
    def data_ranks(self) -> int:
        return self.world_size // self.sample_ranks


def choose_layout(
    nodes: int,
    ranks_per_node: int,
    *,
    samples: int,
    batch_size: int,
    mode: str = "hybrid",
    sample_ranks: int | None = None,
) -> Layout:
    """Return the layout with the most ranks whose S divides the samples and whose D divides the
    batch; of several, the one on which the mode or the former S stays, and then the one whose
    samples of a batch share a node.

    Parameters
    ----------
    nodes, ranks_per_node
        What there is; fewer of each may be used.
    mode
        ``grid.mode``: hybrid S = ranks per node, sample S = world, data S = 1; else nothing.
    sample_ranks
        The S of before, or the given one, to be kept where it fits.

    Raises
    ------
    ValueError
        If there is no node or no rank.
    """
    if nodes < 1 or ranks_per_node < 1:
        raise ValueError(f"{nodes} nodes with {ranks_per_node} ranks each: expected at least one")

    def worth(layout: Layout) -> tuple[int, bool, bool, int, int]:
        s, world = layout.sample_ranks, layout.world_size
        of_mode = {"hybrid": layout.ranks_per_node, "sample": world, "data": 1}.get(mode)
        is_like = s == of_mode if sample_ranks is None else s == sample_ranks
        return world, is_like, layout.ranks_per_node % s == 0, s, layout.nodes

    layouts = [
        Layout(n, r, s)
        for n in range(1, nodes + 1)
        for r in range(1, ranks_per_node + 1)
        for s in divisors(n * r)
        if samples % s == 0 and batch_size % (n * r // s) == 0
    ]
    return max(layouts, key=worth)  # one rank always fits


def words_of(layout: Layout) -> list[str]:
    """Return the layout as the words that job scripts read."""
    grid = ["grid.mode=hybrid", f"grid.sample_ranks={layout.sample_ranks}"]
    return [str(layout.nodes), str(layout.ranks_per_node), *grid]


def layout_of_run(
    settings: Mapping[str, Any], grid: Mapping[str, int] | None, nodes: int, ranks_per_node: int
) -> Layout:
    """Return the layout on which a run goes on.

    settings: its ``config.yaml``. grid: that of its last steps, None where it made none.
    """
    chosen = settings["grid"]
    given, mode = chosen["sample_ranks"], chosen["mode"]
    same_world = grid is not None and (
        grid["sample_ranks"] * grid["data_ranks"] == nodes * ranks_per_node
    )
    if same_world and grid is not None:
        given = grid["sample_ranks"]  # the same numbers, bit for bit
    return choose_layout(
        nodes,
        ranks_per_node,
        samples=settings["posterior"]["samples"],
        batch_size=settings["train"]["batch_size"],
        mode=mode,
        sample_ranks=None if given == "auto" else given,
    )


def main(words: Sequence[str]) -> int:
    """Print the layout for a run folder, and return 0; 1: there is no run in it."""
    import yaml  # not needed by those who only ask for a layout

    run, nodes, ranks_per_node = Path(words[0]), int(words[1]), int(words[2])
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        facts = run / ".run"
        grid = json.loads(facts.read_text(encoding="utf-8")).get("grid") if facts.exists() else None
        layout = layout_of_run(settings, grid, nodes, ranks_per_node)
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        sys.stderr.write(f"{run}: no run to go on with: {error}\n")
        return 1
    sys.stdout.write(" ".join(words_of(layout)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
