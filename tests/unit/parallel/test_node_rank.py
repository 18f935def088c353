"""The place of ranks on their nodes, from what kernel, Slurm and launchers say."""

from pathlib import Path

import pytest
from thread_channel import on_world

from hpc_bnn.parallel import node_rank
from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.node_rank import node_name, node_rank_of, split_by_node
from hpc_bnn.parallel.world import _require_equal_nodes


def node_ranks(*environments: dict[str, str]) -> list[int]:
    return on_world(
        len(environments), lambda channel: node_rank_of(channel, environments[channel.rank])
    )


def test_node_rank_is_the_order_of_ranks_where_no_launcher_speaks() -> None:
    assert node_ranks({}, {}, {}) == [0, 1, 2]


@pytest.mark.parametrize("variable", node_rank.LAUNCHER_NODE_RANKS)
def test_node_rank_of_a_launcher_is_believed(variable: str) -> None:
    assert node_ranks({variable: "1"}, {variable: "0"}, {variable: "2"}) == [1, 0, 2]


def test_mpirun_in_a_step_of_slurm() -> None:
    """Its ranks inherit the place of the shell, or of mpirun's daemon, that is the task."""
    step = {"SLURM_STEP_ID": "0", "SLURM_LOCALID": "0"}
    assert node_ranks(*({**step, "OMPI_COMM_WORLD_LOCAL_RANK": w} for w in ("1", "0"))) == [1, 0]
    assert node_ranks(step, step) == [0, 1]


def test_srun_in_a_script_that_mpirun_started() -> None:
    outer = {"OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    assert node_ranks(*({**outer, "SLURM_LOCALID": word} for word in ("1", "0"))) == [1, 0]


@pytest.mark.parametrize("words", [("0", "0"), ("2", "3"), ("0", "2"), ("", "0"), ("a", "b")])
def test_numbers_that_do_not_count_the_ranks_of_the_node(words: tuple[str, str]) -> None:
    assert node_ranks(*({"OMPI_COMM_WORLD_LOCAL_RANK": word} for word in words)) == [0, 1]


def test_a_node_is_a_running_kernel_or_what_slurm_makes_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boot = tmp_path / "boot_id"
    monkeypatch.setattr(node_rank, "BOOT_ID", boot)
    boot.write_text("4a5e\n", encoding="ascii")
    first = node_name({})
    assert first == node_name({"HOSTNAME": "a container"})
    assert first != node_name({"SLURMD_NODENAME": "n1"}) != node_name({"SLURMD_NODENAME": "n2"})
    boot.write_text("77aa\n", encoding="ascii")
    assert node_name({}) != first
    boot.unlink()
    monkeypatch.setattr("socket.gethostname", lambda: "n3")
    assert node_name({}).startswith("n3")


@pytest.mark.parametrize(
    ("names", "nodes"),
    [
        ("aaa", [0, 0, 0]),
        ("abab", [0, 1, 0, 1]),
        ("aaab", [0, 0, 0, 3]),
        ("baac", [0, 1, 1, 3]),
    ],
)
def test_nodes_of_a_world(names: str, nodes: list[int]) -> None:
    """Also where ranks go round the nodes, or nodes hold different numbers of them."""

    def work(channel: Channel) -> tuple[list[int], list[int]]:
        node, found = split_by_node(channel, names[channel.rank])
        return node.gather_objects(channel.rank, name="members"), found

    for rank, (members, found) in enumerate(on_world(len(names), work)):
        assert found == nodes
        assert members == [r for r, name in enumerate(names) if name == names[rank]]


def test_hybrid_needs_equal_nodes() -> None:
    _require_equal_nodes([0, 0, 2, 2])
    with pytest.raises(ValueError, match=r"grid\.mode = hybrid: the nodes hold 2, 1, 1 ranks"):
        _require_equal_nodes([0, 0, 2, 3])
