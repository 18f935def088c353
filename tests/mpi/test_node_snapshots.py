"""A run whose ranks die goes on from the snapshots of the nodes that are left, to the same end.

The ranks of this job pretend to be on two nodes, each with a folder of its own.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_bnn.config import Settings
from hpc_bnn.group import Group
from hpc_bnn.parallel.guards import GuardError
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import available
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.log import read_metrics
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.run.snapshot_writer import SnapshotWriter
from hpc_bnn.train.step.step import Step

STEPS, DIES_AT = 8, 6
METHODS: dict[str, dict[str, Any]] = {
    "shared": {"samples": 12, "predict_samples": 4},
    "members": {"name": "ensemble", "samples": 12, "predict_samples": 12},
}


def settings(method: str) -> Settings:
    return Settings.model_validate(
        {
            "posterior": METHODS[method],
            "loss": {"name": "gaussian_nll", "variance": "predicted"},
            "model": {"name": "mlp", "hidden": [8]},
            "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
            "train": {
                "device": "cpu", "steps": STEPS, "batch_size": 12, "lr": 0.01,
                "snapshot_every": 1, "checkpoint_every": 4,
            },
        }
    )  # fmt: skip


NET = """
class Net:
    def __init__(self, shape_in, shape_out): ...
"""


class Nodes:
    """The first half of the ranks is on node 0, the others are on node 1."""

    def __init__(self, world: World, folder: Path) -> None:
        size, rank = world.grid.world_size, world.grid.world_rank
        half = -(-size // 2)
        self.node, self.folder = int(rank >= half), folder
        self.first = (0, half)[: 1 if size == 1 else 2]  # rank of each
        self.world = replace(world, node_rank=rank - self.first[self.node])

    def own(self, given: str) -> Path:
        return self.folder / f"node{self.node}"

    def files(self, node: int) -> list[Path]:
        return [file for run in (self.folder / f"node{node}").glob("*/") for file in available(run)]


@pytest.fixture
def nodes(
    world: World, all_ranks: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nodes]:
    made = Nodes(world, Path(all_ranks.broadcast(str(tmp_path), name="folder")))
    monkeypatch.setenv("SLURMD_NODENAME", f"node{made.node}")
    monkeypatch.setattr("hpc_bnn.train.run.node_snapshots.snapshot_folder", made.own)
    # Each is written before the next one is due, so that none is left out.
    take = SnapshotWriter.take

    def at_once(self: SnapshotWriter, *given: Any) -> None:
        take(self, *given)
        if self._thread is not None:
            self._thread.join()

    monkeypatch.setattr(SnapshotWriter, "take", at_once)
    yield made
    all_ranks.gather(None, name="end of the test")


def killed(nodes: Nodes, method: str, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until all ranks fail in a step: DIES_AT were made."""
    call = Step.__call__

    def dies(self: Step, *batch: Any) -> Any:
        if self.step == DIES_AT:
            raise SystemError("the node lost its power")
        return call(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", dies)
        with pytest.raises(SystemError):
            train(settings(method), nodes.world, run)


Damage = Callable[[Nodes], None]


def nothing(nodes: Nodes) -> None:
    """All nodes are as they were."""


def lose_first_node(nodes: Nodes) -> None:
    shutil.rmtree(nodes.folder / "node0")


def cut_first_node(nodes: Nodes) -> None:
    """Its newest file is half written, and one more is damaged inside."""
    content = nodes.files(0)[-1].read_bytes()
    nodes.files(0)[-1].write_bytes(content[: len(content) // 2])


def open_first_node(nodes: Nodes) -> None:
    """Anybody could have put these files there."""
    (nodes.folder / "node0").chmod(0o755)


def lose_all(nodes: Nodes) -> None:
    for node in range(len(nodes.first)):
        shutil.rmtree(nodes.folder / f"node{node}", ignore_errors=True)


@pytest.mark.parametrize(
    "damage", [nothing, lose_first_node, cut_first_node, open_first_node, lose_all]
)
@pytest.mark.parametrize("method", list(METHODS))
def test_the_newest_whole_state_is_taken(
    nodes: Nodes,
    all_ranks: Group,
    method: str,
    damage: Damage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = RunFolder(nodes.folder / "run")
    whole = train(settings(method), nodes.world, RunFolder(nodes.folder / "whole"))
    assert not nodes.files(0) and not nodes.files(1), "a finished run leaves snapshots"
    killed(nodes, method, run, monkeypatch)
    all_ranks.gather(None, name="killed")
    two, s = len(nodes.first) == 2, nodes.world.grid.sample_ranks
    # Members are on the node of the first rank of a sample axis: the second one has none of its own
    # where one axis covers both.
    on_second = two and (method == "shared" or nodes.world.grid.data_ranks > 1)
    starts = range(0, nodes.world.grid.world_size, s)
    if method == "members" and two:
        on_second = any(start >= nodes.first[1] for start in starts)
    assert [len(nodes.files(node)) for node in (0, 1)] == [2, 2 * on_second]
    all_ranks.gather(None, name="seen")
    if all_ranks.rank == 0:
        damage(nodes)
    all_ranks.gather(None, name="damaged")
    caplog.clear()
    summary = train(settings(method), nodes.world, run, resume=True)
    expected = {
        nothing: DIES_AT,
        lose_first_node: DIES_AT if on_second else 4,
        cut_first_node: DIES_AT if on_second else DIES_AT - 1,
        open_first_node: DIES_AT if on_second else 4,
        lose_all: 4,
    }[damage]
    (restart,) = read_metrics(run.restarts)
    assert restart["step"] == expected
    assert restart["lost_steps"] == DIES_AT - expected
    for key in ("parameter_checksum", "final_loss"):
        assert summary[key] == whole[key]
    broken = [text for text in caplog.messages if "damaged or truncated" in text]
    owner = all_ranks.rank == 0 and damage is cut_first_node
    assert len(broken) == owner
    refused = [text for text in caplog.messages if "are not read" in text]
    assert len(refused) == (all_ranks.rank == 0 and damage is open_first_node)
    steps = [row["step"] for row in read_metrics(run.metrics) if "loss" in row]
    assert steps == [*range(STEPS)]
    grid = {"sample_ranks": s, "data_ranks": nodes.world.grid.data_ranks, "nodes": 1}
    assert restart["old_grid"] == restart["grid"] == grid


def test_another_run_in_the_folder_of_an_old_one(
    nodes: Nodes, all_ranks: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshots are of no use to it."""
    run = RunFolder(nodes.folder / "run")
    killed(nodes, "shared", run, monkeypatch)
    all_ranks.on_first(lambda: shutil.rmtree(run.path), name="removed")
    summary = train(settings("shared"), nodes.world, run, resume=True)
    assert summary["restarts"] == 0


def test_a_node_that_is_behind_is_waited_for_by_none(
    nodes: Nodes, all_ranks: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is left out on every rank alike while any rank writes."""
    last = all_ranks.size - 1
    monkeypatch.setattr(
        SnapshotWriter, "is_busy", property(lambda self: nodes.world.grid.world_rank == last)
    )
    taken: list[int] = []
    take = SnapshotWriter.take

    def noted(self: SnapshotWriter, state: Any, *given: Any) -> None:
        taken.append(state.step)
        take(self, state, *given)

    monkeypatch.setattr(SnapshotWriter, "take", noted)
    train(settings("shared"), nodes.world, RunFolder(nodes.folder / "run"))
    writes = all_ranks.rank in nodes.first
    writer_is_last = last in nodes.first  # only one that writes can be busy
    assert len(taken) == (0 if writer_is_last or not writes else STEPS - 2)
    assert torch.equal(torch.tensor(taken), torch.tensor(sorted(taken)))


def test_another_copy_of_the_code_on_one_node(
    nodes: Nodes, all_ranks: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would add other gradients to the sum, and no parameter would differ."""
    code = {"losses/nll.py": f"of node {nodes.node}"}
    monkeypatch.setattr("hpc_bnn.train.run.loop.code_here", lambda: code)
    if len(nodes.first) < 2:
        pytest.skip("one rank is on one node")
    said = (
        f"losses/nll.py is 'of node 0' on world rank 0 and 'of node 1' on world rank "
        f"{nodes.first[1]}; use one environment on all nodes"
    )
    with pytest.raises(GuardError, match=said):
        train(settings("shared"), nodes.world, RunFolder(nodes.folder / "run"))


def test_another_copy_of_a_network_of_ones_own_on_one_node(
    nodes: Nodes, all_ranks: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(nodes.first) < 2:
        pytest.skip("one rank is on one node")
    own = nodes.folder / f"of_node{nodes.node}"
    if all_ranks.rank in nodes.first:  # they read it
        own.mkdir()
        (own / "own_net_of_nodes.py").write_text(f"{NET}    node = {nodes.node}\n")
    monkeypatch.syspath_prepend(own)
    chosen = settings("shared")
    model = type(chosen.model).model_validate({"name": "own_net_of_nodes:Net"})
    chosen = chosen.model_copy(update={"model": model})
    said = r"code of model.name = own_net_of_nodes:Net: own_net_of_nodes.py is '.*' on world rank 0"
    with pytest.raises(GuardError, match=f"{said} and .*; use one copy of it on all nodes"):
        train(chosen, nodes.world, RunFolder(nodes.folder / "run"))
