"""What travels between ranks may be of any dtype, layout and shape."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.parallel.engine import GradientReduction
from hpc_bnn.parallel.world import World

pytestmark = pytest.mark.both_engines

REDUCTIONS = ("world", "two_stage")
DTYPES = [
    torch.bool,
    *(torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
    *(torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
]
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t(),
    "every other column": lambda x: x[:, ::2],
    "expanded": lambda x: x[:1].expand(3, 4),
    "scalar": lambda x: x[1, 2],
    "empty": lambda x: x[:0],
}


def of_rank(rank: int, dtype: torch.dtype) -> Tensor:
    """Return (3, 4) numbers of which every rank has other ones."""
    values = torch.arange(12, dtype=torch.float64).view(3, 4) + 13 * rank
    if dtype == torch.bool:
        return (torch.arange(12).view(3, 4) + rank) % 3 == 0
    return (values * (1 + 2j)).to(dtype) if dtype.is_complex else values.to(dtype)


def test_every_rank_gets_the_tensors_of_rank_0(world: World) -> None:
    rank = world.grid.world_rank
    mine = {
        f"{dtype} {shape}": view(of_rank(rank, dtype))
        for dtype in DTYPES
        for shape, view in SHAPES.items()
    }
    world.broadcast_parameters(mine)
    for dtype in DTYPES:
        for shape, view in SHAPES.items():
            got, expected = mine[f"{dtype} {shape}"], view(of_rank(0, dtype))
            # Not torch.equal, which lacks some of these dtypes.
            assert (got.dtype, got.tolist()) == (dtype, expected.tolist()), (dtype, shape)


def test_bits_that_are_no_number_travel_as_they_are(world: World) -> None:
    rank = world.grid.world_rank
    payloads = torch.tensor([0x7FC12345, -0x80000000, 0x7F812345 + rank], dtype=torch.int32)
    mine = {
        "nan": payloads.view(torch.float32),
        "conjugate": of_rank(rank, torch.complex64).conj(),
        "negative": of_rank(rank, torch.complex64).conj().imag,
    }
    world.broadcast_parameters(mine)
    assert mine["nan"].view(torch.int32).tolist() == [0x7FC12345, -0x80000000, 0x7F812345]
    assert mine["conjugate"].is_conj()
    assert mine["conjugate"].tolist() == of_rank(0, torch.complex64).conj().tolist()
    assert mine["negative"].tolist() == of_rank(0, torch.complex64).conj().imag.tolist()


def test_a_tensor_longer_than_a_message(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPI counts the bytes of a message in 32 bits."""
    monkeypatch.setattr("hpc_bnn.parallel.broadcast.MESSAGE_BYTES", 40)
    x = torch.arange(33, dtype=torch.float64) + 100 * world.grid.world_rank
    world.broadcast_parameters({"x": x})
    assert x.tolist() == list(range(33))


def share_of(rank: int) -> float:
    """In bfloat16, 256 + 1 is 256 again: only a sum in float32 sees the later ranks."""
    return 256.0 if rank == 0 else 1.0


def reduced(
    world: World, parameter: nn.Parameter, objective: Callable[[float], Tensor], reduction: str
) -> Tensor:
    """Return the gradient of two steps' second, each of one backward pass."""
    chosen: GradientReduction = "world" if reduction == "world" else "two_stage"
    reducer = world.reducer([("weight", parameter)], reduction=chosen)
    for _ in range(2):
        parameter.grad = None
        reducer.begin()
        reducer.at_last_pass()
        torch.autograd.backward(objective(share_of(world.grid.world_rank)))
        reducer.wait()
    reducer.close()
    assert parameter.grad is not None
    return parameter.grad


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.complex128]
)
def test_gradients_are_summed_in_float32_at_least(
    world: World, dtype: torch.dtype, reduction: str
) -> None:
    weight = nn.Parameter(torch.zeros(3, dtype=dtype))

    def objective(share: float) -> Tensor:
        return (weight.real + 2 * weight.imag if dtype.is_complex else weight).sum() * share

    got = reduced(world, weight, objective, reduction)
    total = sum(map(share_of, range(world.grid.world_size))) / world.grid.data_ranks
    expected = torch.tensor(total * (1 + 2j) if dtype.is_complex else total).to(dtype)
    assert got.dtype == dtype
    assert got.tolist() == [expected.item()] * 3


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradients_of_any_layout(world: World, reduction: str) -> None:
    """Sparse, channels last, empty and scalar ones."""
    total = sum(map(share_of, range(world.grid.world_size))) / world.grid.data_ranks
    rows = nn.Parameter(torch.zeros(4, 2))
    where = torch.tensor([1, 3, 1])
    embed = nn.functional.embedding
    got = reduced(
        world, rows, lambda share: embed(where, rows, sparse=True).sum() * share, reduction
    )
    if world.grid.world_size > 1:  # alone, hb.Step does it
        assert got.layout == torch.strided
    assert got.to_dense().tolist() == [[0, 0], [2 * total] * 2, [0, 0], [total] * 2]

    image = nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    factor = torch.arange(120.0).view(2, 3, 4, 5)
    got = reduced(world, image, lambda share: (image * factor).sum() * share, reduction)
    assert not got.is_contiguous()
    assert torch.equal(got, factor * total)

    for shape in ((0, 3), ()):
        empty = nn.Parameter(torch.zeros(shape))
        got = reduced(world, empty, lambda share, p=empty: p.sum() * share, reduction)
        assert torch.equal(got, torch.full(shape, total))
