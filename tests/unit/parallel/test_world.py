"""A world of one process: no MPI communicator, no Horovod, nothing to reduce."""

import pytest
import torch
from torch import nn

import hpc_bnn as hb
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.grid import Mode
from hpc_bnn.parallel.world import start


@pytest.mark.parametrize("mode", ["local", "sample", "data", "hybrid"])
def test_one_process_is_a_grid_of_one_in_every_mode(mode: Mode) -> None:
    world = start(ALONE, mode=mode, device="cpu")
    assert (world.grid.sample_ranks, world.grid.data_ranks, world.grid.world_rank) == (1, 1, 0)
    assert world.is_first
    assert (world.node_rank, world.node_size, world.num_nodes) == (0, 1, 1)
    assert world.device == torch.device("cpu")
    assert (world.sample_axis.size, world.sample_axis.rank) == (1, 0)


def test_start_needs_no_launcher() -> None:
    world = hb.start(sample_ranks="auto", device="cpu")
    assert world.grid.world_size == 1
    world.stop()


def test_more_sample_ranks_than_ranks() -> None:
    with pytest.raises(ValueError, match=r"grid\.sample_ranks = 2: must divide the 1 ranks"):
        hb.start(sample_ranks=2, device="cpu")


def test_gradients_of_one_rank_are_left_alone() -> None:
    world = start(ALONE, device="cpu")
    parameter = nn.Parameter(torch.ones(3))
    reducer = world.reducer([("p", parameter)])
    for _ in range(2):
        parameter.sum().backward()
    reducer.wait()
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full((3,), 2.0))
    world.broadcast_parameters({"p": parameter})
    assert torch.equal(parameter.detach(), torch.ones(3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(RuntimeError, match="device = cuda: torch sees no GPU"):
        hb.start(device="cuda")
    assert hb.start(device="auto").device == torch.device("cpu")
