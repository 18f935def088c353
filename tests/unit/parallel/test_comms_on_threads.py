"""Host communication: worlds that do not connect, and failures on one rank."""

import re
from pathlib import Path

import pytest
import torch
from thread_channel import on_world, outcomes, rank_tensor

from hpc_bnn.cli.program import main
from hpc_bnn.parallel.channel import SOLO, Channel
from hpc_bnn.parallel.comms import RankError, connect, library_version, on_first, together
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.launcher import LAUNCHER_SIZES, PROCESS
from hpc_bnn.parallel.node_rank import LAUNCHER_NODE_RANKS


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher has spoken to this process, until a test says so."""
    pytest.importorskip("mpi4py")
    for name in {*LAUNCHER_SIZES, *LAUNCHER_NODE_RANKS, "SLURM_JOB_ID", "SLURM_STEP_ID"}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(PROCESS, raising=False)
    return monkeypatch


def test_worlds_of_one_rank_are_refused(
    no_launcher: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_launcher.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert main(["train", "mlp_series.yaml", "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert re.search(r"OMPI_COMM_WORLD_SIZE = 4, but MPI connects 1 rank", said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("variable", LAUNCHER_SIZES)
def test_every_launcher_is_believed(variable: str, no_launcher: pytest.MonkeyPatch) -> None:
    no_launcher.setenv(variable, "4")
    with pytest.raises(RuntimeError, match=rf"{variable} = 4, but .*MPI"):
        connect()
    no_launcher.setenv(variable, "1")
    assert connect() is SOLO


def test_solo_is_the_identity() -> None:
    x = torch.arange(3.0)
    assert torch.equal(SOLO.all_reduce(x, reduction="sum", name="x"), x)
    assert SOLO.all_reduce(x, reduction="max", name="x") is not x
    assert torch.equal(SOLO.all_gather(x, name="x"), x)
    assert torch.equal(SOLO.all_to_all(x, name="x"), x)
    assert SOLO.gather_objects({"a": 1}, name="x") == [{"a": 1}]
    assert SOLO.broadcast("a", name="x") == "a"
    assert (SOLO.split(3, 1).size, SOLO.split_by_node().rank, SOLO.native()) == (1, 0, None)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_thread_channel_keeps_the_protocol(size: int) -> None:
    """The channel that the tests below stand on moves what its methods say."""

    def work(channel: Channel) -> None:
        x = rank_tensor(channel, size)
        everyone = torch.arange(size, dtype=torch.float64).unsqueeze(1) * 100 + torch.arange(size)
        total = channel.all_reduce(x, reduction="sum", name="sum")
        assert torch.equal(total, everyone.sum(0))
        assert torch.equal(channel.all_reduce(x, reduction="max", name="max"), everyone[-1])
        assert torch.equal(channel.all_gather(x, name="gather"), everyone.flatten())
        assert torch.equal(channel.all_to_all(x, name="turn"), everyone[:, channel.rank])
        assert channel.gather_objects(channel.rank, name="ranks") == list(range(size))
        assert channel.broadcast(channel.rank + 7, name="first") == 7
        backwards = channel.split(0, -channel.rank)
        assert (backwards.size, backwards.rank) == (size, size - 1 - channel.rank)
        pair = channel.split(channel.rank // 2, channel.rank)
        assert pair.gather_objects(channel.rank, name="pair") == [
            rank for rank in range(size) if rank // 2 == channel.rank // 2
        ]

    on_world(size, work)


@pytest.mark.parametrize(("sample_ranks", "data_ranks"), [(1, 3), (3, 1), (2, 2), (2, 3), (3, 2)])
def test_split_of_the_grid_gives_its_axes(sample_ranks: int, data_ranks: int) -> None:
    def work(channel: Channel) -> None:
        grid = Grid(sample_ranks, data_ranks, channel.rank)
        sample = channel.split(grid.data_rank, grid.sample_rank)
        data = channel.split(grid.sample_rank, grid.data_rank)
        assert sample.gather_objects(channel.rank, name="s") == grid.sample_axis
        assert data.gather_objects(channel.rank, name="d") == grid.data_axis
        assert (sample.rank, data.rank) == (grid.sample_rank, grid.data_rank)

    on_world(sample_ranks * data_ranks, work)


def test_together_returns_each_rank_its_own() -> None:
    assert on_world(3, lambda c: together(c, lambda: c.rank * 2, name="x")) == [0, 2, 4]
    assert on_world(2, lambda c: together(c, lambda: None, name="x")) == [None, None]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_on_one_rank_is_raised_on_all_and_names_it(failing: int) -> None:
    def work(channel: Channel) -> None:
        def action() -> None:
            if channel.rank == failing:
                raise KeyError(f"file {channel.rank}")

        together(channel, action, name="reading the data")

    for rank, error in enumerate(outcomes(3, work)):
        assert isinstance(error, Exception), f"rank {rank} went on"
        if rank == failing:
            assert isinstance(error, KeyError)
        else:
            assert isinstance(error, RankError)
            assert f"reading the data: rank {failing} failed" in str(error)
            assert f"file {failing}" in str(error)


def test_the_first_of_several_failures_is_named() -> None:
    def work(channel: Channel) -> None:
        def action() -> None:
            if channel.rank > 0:
                raise ValueError(f"broken on {channel.rank}")

        together(channel, action, name="build")

    found = outcomes(4, work)
    assert "build: rank 1 failed: ValueError: broken on 1" in str(found[0])
    assert [str(error) for error in found[1:]] == [f"broken on {rank}" for rank in (1, 2, 3)]


def test_the_channel_can_be_used_after_a_failure() -> None:
    def work(channel: Channel) -> list[int]:
        with pytest.raises((RankError, ZeroDivisionError)):
            together(channel, lambda: 1 // (channel.rank - 1), name="first")
        return channel.gather_objects(channel.rank, name="second")

    assert on_world(3, work) == [[0, 1, 2]] * 3


def test_on_first_runs_once_and_everyone_gets_the_result() -> None:
    ran: list[int] = []

    def work(channel: Channel) -> list[int]:
        def action() -> list[int]:
            ran.append(channel.rank)
            return [channel.rank, 42]

        return on_first(channel, action, name="write")

    results = on_world(3, work)
    assert ran == [0]
    assert results == [[0, 42]] * 3
    assert results[1] is not results[2]


def test_on_first_raises_everywhere() -> None:
    def work(channel: Channel) -> None:
        def action() -> None:
            raise OSError("no space left")

        on_first(channel, action, name="checkpoint")

    found = outcomes(3, work)
    assert isinstance(found[0], OSError)
    for error in found[1:]:
        assert "checkpoint: rank 0 failed: OSError: no space left" in str(error)


def test_library_version_is_one_line() -> None:
    assert library_version()
    assert "\n" not in library_version()
