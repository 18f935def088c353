"""Guards: fingerprints tell tensors apart, and every broken contract is named on every rank."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from thread_group import ThreadGroup, on_ranks, outcomes
from torch import Tensor

from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.fingerprint import fingerprint, fingerprint_of
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.guards import (
    Finding,
    GuardError,
    Numbers,
    agree,
    check,
    data_axis_violation,
    sample_axis_violation,
    total_of,
)
from hpc_bnn.parallel.world import World

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32]
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def some(dtype: torch.dtype, count: int = 13) -> Tensor:
    values = torch.sin(torch.arange(count, dtype=torch.float64)) * 1000
    return values.to(dtype)


def flipped(x: Tensor, position: int, bit: int) -> Tensor:
    integer = INTEGERS[x.element_size()]
    bits = x.clone().view(integer)
    mask = -(1 << bit) if bit == 8 * x.element_size() - 1 else 1 << bit
    bits[position] ^= mask
    return bits.view(x.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_single_bit_counts(dtype: torch.dtype) -> None:
    x = some(dtype)
    bits = 8 * x.element_size()
    changed = [fingerprint(flipped(x, i, bit)) for i in range(len(x)) for bit in range(bits)]
    assert len({fingerprint(x), *changed}) == 1 + len(x) * bits


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool], ids=str)
def test_every_swap_of_different_elements_counts(dtype: torch.dtype) -> None:
    x = some(dtype)
    if dtype == torch.bool:
        x = torch.arange(13) % 3 == 0
    for i in range(len(x)):
        for j in range(i):
            swapped = x.clone()
            swapped[i], swapped[j] = x[j], x[i]
            assert (fingerprint(swapped) == fingerprint(x)) == bool(x[i] == x[j])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 10, 64])
def test_signs_and_order_count(dtype: torch.dtype, count: int) -> None:
    """Mirrored draws and reversed batches are different tensors."""
    x = some(dtype, count + 1)[1:]
    assert fingerprint(-x) != fingerprint(x)
    if count > 1:
        assert fingerprint(x.flip(0)) != fingerprint(x)
        mirrored = torch.stack([x, -x]).flatten()
        assert fingerprint(-mirrored) != fingerprint(mirrored)


def test_round_numbers_far_apart_may_not_be_swapped_unseen() -> None:
    """In 64 bits, differences of round numbers have many trailing zeros."""
    x = torch.ones(4096, dtype=torch.float64)
    x[0] = 2.0
    y = torch.ones(4096, dtype=torch.float64)
    y[2048] = 2.0
    assert fingerprint(x) != fingerprint(y)


def test_bool_and_dtype() -> None:
    x = torch.tensor([True, False, True])
    assert fingerprint(x) != fingerprint(~x)
    assert fingerprint(x) == fingerprint(x.clone())


def test_signed_zero_and_nan_payloads_are_bits() -> None:
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))
    nan = torch.tensor([float("nan")])
    assert fingerprint(nan) == fingerprint(nan.clone())


def test_empty_and_scalar_tensors() -> None:
    assert fingerprint(torch.empty(0)) == fingerprint(torch.empty(0, 3))
    assert fingerprint(torch.tensor(2.0)) == fingerprint(torch.tensor([2.0]))
    assert fingerprint(torch.tensor(2.0)) != fingerprint(torch.tensor(3.0))


def test_only_the_values_count_not_the_memory() -> None:
    x = some(torch.float32, 24).reshape(4, 6)
    assert not x.t().is_contiguous()
    assert fingerprint(x.t()) == fingerprint(x.t().contiguous())
    assert fingerprint(x.t()) != fingerprint(x)
    assert fingerprint(x[:, ::2]) == fingerprint(x[:, ::2].clone())
    assert fingerprint(x.clone().requires_grad_()) == fingerprint(x)


@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int16, torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn],
    ids=str,
)
def test_other_dtypes(dtype: torch.dtype) -> None:
    x = torch.arange(6, dtype=torch.float64).to(dtype)
    assert fingerprint(x) == fingerprint(x.clone())
    assert len({fingerprint(x[i]) for i in range(6)}) == 6


@pytest.mark.parametrize("dtype", [torch.complex32, torch.complex64, torch.complex128], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_complex_numbers(dtype: torch.dtype) -> None:
    """Both parts count, also where a view conjugates or negates by a flag."""
    x = torch.complex(some(torch.float64), some(torch.float64, 14)[1:]).to(dtype)
    assert fingerprint(x) != fingerprint(x.conj())
    assert fingerprint(x.conj()) == fingerprint(x.conj().resolve_conj())
    if dtype != torch.complex32:
        assert fingerprint(x.conj().imag) == fingerprint(-x.imag)
        for i in range(len(x)):
            for change in (1e-3, 1e-3j):
                changed = x.clone()
                changed[i] += change
                assert fingerprint(changed) != fingerprint(x)


def test_large_tensors_are_mixed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = some(torch.float32, 23)
    whole = fingerprint(x)
    monkeypatch.setattr("hpc_bnn.parallel.fingerprint._PIECE", 5)
    assert fingerprint(x) == whole


def test_one_fingerprint_of_several() -> None:
    """Python's hash of integers is equal for -1 and -2, and modulo 2**61 - 1."""
    sets = [[-1], [-2], [5], [5 + 2**61 - 1], [1, 2], [2, 1], [1, 2, 0]]
    assert len({fingerprint_of(each) for each in sets}) == len(sets)


def test_fits_a_signed_integer() -> None:
    assert all(-(2**63) <= fingerprint(some(dtype)) < 2**63 for dtype in DTYPES)


def on_grid(group: Group, sample_ranks: int, data_ranks: int) -> World:
    """Collective: return what a rank knows of a grid of threads."""
    grid = Grid(sample_ranks, data_ranks, group.rank)
    axes = (
        group.split(grid.data_rank, grid.sample_rank),
        group.split(grid.sample_rank, grid.data_rank),
    )
    return World(grid, torch.device("cpu"), group, *axes)


Named = dict[str, Tensor]
Break = Callable[[Grid, Named, list[Tensor], list[Tensor]], None]


def guarded(sample_ranks: int, data_ranks: int, spoil: Break) -> list[Exception | None]:
    """Run the guard on threads in the state that a good run is in, changed by ``spoil``."""

    def work(group: Group) -> None:
        world = on_grid(group, sample_ranks, data_ranks)
        grid = world.grid
        parameters = {name: some(torch.float32) * k for k, name in enumerate("abc", start=1)}
        batch = [some(torch.float32) + grid.data_rank, torch.arange(4) + 4 * grid.data_rank]
        draw = [some(torch.float32) + grid.sample_rank]
        spoil(grid, parameters, batch, draw)
        check(world, step=7, parameters=parameters, batch=batch, draw=draw[0])

    return outcomes(sample_ranks * data_ranks, work)


def common_message(results: list[Exception | None]) -> str:
    """Return the message that every rank raised."""
    assert all(isinstance(error, GuardError) for error in results), results
    (message,) = {str(error) for error in results}
    return message


def nothing(grid: Grid, parameters: object, batch: object, draw: object) -> None:
    """Leave everything as it should be."""


@pytest.mark.parametrize(
    ("sample_ranks", "data_ranks"), [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 2), (3, 2), (2, 3)]
)
def test_a_good_state_passes(sample_ranks: int, data_ranks: int) -> None:
    assert guarded(sample_ranks, data_ranks, nothing) == [None] * (sample_ranks * data_ranks)


@pytest.mark.parametrize("bad_rank", [0, 1, 2, 3])
def test_a_parameter_that_differs_is_named_with_its_rank(bad_rank: int) -> None:
    def spoil(grid: Grid, parameters: Named, batch: list[Tensor], draw: list[Tensor]) -> None:
        if grid.world_rank == bad_rank:
            parameters["c"][0] += 1
            parameters["b"][3] = torch.nextafter(parameters["b"][3], torch.tensor(1e9))

    message = common_message(guarded(2, 2, spoil))
    assert message.startswith("step 7: parameter b differs between world ranks 0 and ")
    assert f"ranks 0 and {bad_rank or 1};" in message


@pytest.mark.parametrize("part", [0, 1], ids=["x", "y"])
def test_different_batches_on_one_data_rank(part: int) -> None:
    def spoil(grid: Grid, parameters: Named, batch: list[Tensor], draw: list[Tensor]) -> None:
        if grid.world_rank == 3:  # sample rank 1 of data rank 1
            batch[part] = batch[part] + 100

    message = common_message(guarded(2, 2, spoil))
    assert "step 7: world ranks 2 and 3 hold different batches" in message
    assert "sample ranks 0 and 1 of data rank 1" in message
    assert "shard by data_rank, not by world_rank" in message


def test_the_same_batch_on_two_data_ranks() -> None:
    def spoil(grid: Grid, parameters: Named, batch: list[Tensor], draw: list[Tensor]) -> None:
        if grid.data_rank == 2:
            batch[0], batch[1] = batch[0] - 1, batch[1] - 4

    message = common_message(guarded(2, 3, spoil))
    assert "step 7: world ranks 2 and 4 hold the same batch" in message
    assert "data ranks 1 and 2" in message


def test_the_same_draws_on_two_sample_ranks() -> None:
    def spoil(grid: Grid, parameters: Named, batch: list[Tensor], draw: list[Tensor]) -> None:
        if grid.sample_rank == 2:
            draw[0] -= 1

    message = common_message(guarded(3, 1, spoil))
    assert "step 7: world ranks 1 and 2 drew the same weights" in message
    assert "of data rank 0" in message


def test_mirrored_draws_of_zero_means_are_different() -> None:
    """An antithetic pair over a mean of zero, in float64, is not *the same weights*."""

    def spoil(grid: Grid, parameters: Named, batch: list[Tensor], draw: list[Tensor]) -> None:
        draw[0] = some(torch.float64, 11)[1:] * (1 - 2 * grid.sample_rank)

    assert guarded(2, 1, spoil) == [None, None]


def test_one_rank_has_nothing_to_compare() -> None:
    world = World(Grid(1, 1, 0), torch.device("cpu"))
    check(world, step=0, parameters={}, batch=[], draw=torch.zeros(1))


def test_the_guard_is_one_reduction_and_one_exchange_along_each_axis() -> None:
    def work(group: ThreadGroup) -> list[list[str]]:
        world = on_grid(group, 2, 2)
        draw = torch.full((3,), float(world.grid.sample_rank))
        x = torch.full((3,), float(world.grid.data_rank))
        rows = {"members": draw + 1}
        check(world, step=0, parameters={"a": x * 0}, batch=[x], draw=draw, per_sample=rows)
        axes = (world.sample_axis, world.data_axis)
        return [group.calls, *(axis.calls for axis in axes if isinstance(axis, ThreadGroup))]

    assert on_ranks(4, work) == [[["guards"]] * 3] * 4


@pytest.mark.parametrize("bad_rank", [0, 3, 5])
def test_members_that_differ_along_the_data_axis(bad_rank: int) -> None:
    """The first tensor is named, with the first rank that holds the same members."""

    def work(group: Group) -> None:
        world = on_grid(group, 2, 3)
        rows = {name: some(torch.float32) + world.grid.sample_rank for name in "abc"}
        if group.rank == bad_rank:
            rows["c"][1], rows["b"][0] = 7.0, -7.0
        spoiled = some(torch.float32) + world.grid.data_rank
        check(world, step=2, parameters={}, batch=[spoiled], draw=rows["a"], per_sample=rows)

    first = bad_rank % 2
    other = bad_rank if bad_rank > 1 else first + 2
    assert common_message(outcomes(6, work)).startswith(
        f"step 2: parameter b differs between world ranks {first} and {other}, which hold the same"
    )


def test_equal_members_on_two_sample_ranks() -> None:
    def work(group: Group) -> None:
        world = on_grid(group, 3, 2)
        rows = {"a": some(torch.float32) + min(world.grid.sample_rank, 1)}
        batch, draw = torch.tensor([group.rank]), torch.tensor([group.rank % 3])
        check(world, step=2, parameters={}, batch=[batch], draw=draw, per_sample=rows)

    assert "world ranks 1 and 2 hold equal members, but are" in common_message(outcomes(6, work))


def test_of_several_violations_the_gravest_is_raised() -> None:
    """A parameter before members, members before batches and draws, and of those the first rank."""

    def work(group: Group, parameters: bool, members: bool) -> None:
        world = on_grid(group, 2, 2)
        tensors = {"p": torch.full((2,), float(parameters and group.rank == 3))}
        rows = {
            "m": torch.full((2,), float(world.grid.sample_rank + (members and group.rank == 2)))
        }
        batch, draw = torch.tensor([group.rank]), torch.tensor([0])
        check(world, step=1, parameters=tensors, batch=[batch], draw=draw, per_sample=rows)

    for parameters, members, found in (
        (True, True, "parameter p differs between world ranks 0 and 3"),
        (False, True, "parameter m differs between world ranks 0 and 2"),
        (False, False, "world ranks 0 and 1 hold different batches"),
    ):
        ended = outcomes(4, lambda group, p=parameters, m=members: work(group, p, m))
        assert found in common_message(ended)


def test_agree_names_key_ranks_and_both_values() -> None:
    def work(group: Group) -> None:
        values = {"seed": 1, "samples": 8 if group.rank < 2 else 4}
        agree(group, values, name="settings")

    message = common_message(outcomes(3, work))
    assert message.startswith(
        "settings: samples is 8 on world rank 0 and 4 on world rank 2; all ranks must start"
    )


def test_agree_sees_keys_that_one_rank_lacks() -> None:
    def work(group: Group) -> None:
        agree(group, {"a": 1} if group.rank else {"a": 1, "b": 2}, name="settings")

    assert "b is 2 on world rank 0 and 'missing' on world rank 1" in common_message(
        outcomes(2, work)
    )


def test_agree_among_those_that_have_something_to_say() -> None:
    """One rank a node, such as of a file that it has read."""

    def work(group: Group, last: str) -> None:
        values = {0: {"code": "a"}, 2: {"code": "a"}, 4: {"code": last}}
        agree(group, values.get(group.rank), name="node")

    assert on_ranks(5, lambda group: work(group, "a")) == [None] * 5
    assert common_message(outcomes(5, lambda group: work(group, "b"))).startswith(
        "node: code is 'a' on world rank 0 and 'b' on world rank 4"
    )


def test_agree_passes_where_all_agree() -> None:
    """One reduction of two numbers, whatever the order and the size of the values."""

    def work(group: ThreadGroup) -> list[str]:
        values = {"a": (1, 2.5), "b": "x" * 10_000}
        agree(group, dict(sorted(values.items(), reverse=group.rank == 1)), name="settings")
        return group.calls

    assert on_ranks(3, work) == [["settings"]] * 3


def pair_by_pair(grid: Grid, batches: list[int], draws: list[int]) -> str | None:
    """Return the ranks that the guard names and why, by comparing every pair."""
    for rank in range(grid.world_size):
        place = Grid(grid.sample_ranks, grid.data_ranks, rank)
        for other in range(rank):
            if other in place.sample_axis and batches[other] != batches[rank]:
                return f"world ranks {other} and {rank} hold different batches"
            if other in place.sample_axis and draws[other] == draws[rank]:
                return f"world ranks {other} and {rank} drew the same weights"
        for other in range(rank):
            if other in place.data_axis and batches[other] == batches[rank]:
                return f"world ranks {other} and {rank} hold the same batch"
    return None


def violation(grid: Grid, batches: Numbers, draws: Numbers) -> str | None:
    """Return the gravest finding of the first ranks of all axes."""
    members = np.array([rank % grid.sample_ranks for rank in range(grid.world_size)])
    numbers = np.stack([batches, draws, members])
    found: list[Finding | None] = []
    for data_rank in range(grid.data_ranks if grid.sample_ranks > 1 else 0):
        first = Grid(grid.sample_ranks, grid.data_ranks, data_rank * grid.sample_ranks)
        found.append(sample_axis_violation(first, *numbers[:, first.sample_axis]))
    for sample_rank in range(grid.sample_ranks if grid.data_ranks > 1 else 0):
        first = Grid(grid.sample_ranks, grid.data_ranks, sample_rank)
        found.append(data_axis_violation(first, *numbers[:, first.data_axis]))
    findings = [finding for finding in found if finding is not None]
    assert len({finding.gravity for finding in findings}) == len(findings)
    return max(findings, key=lambda finding: finding.gravity).text if findings else None


def test_the_guard_names_what_a_comparison_of_all_pairs_names() -> None:
    """On random grids, with none to several ranks that hold or draw what another does."""
    random = np.random.default_rng(1)
    kinds = set()
    for _ in range(600):
        grid = Grid(*random.integers(1, 6, 2).tolist(), 0)
        size = grid.world_size
        batches, draws = np.arange(size) // grid.sample_ranks * 7, np.arange(size)
        for _ in range(random.integers(0, 3)):
            batches[random.integers(size)] = 7 * random.integers(grid.data_ranks + 1)
            draws[random.integers(size)] = draws[random.integers(size)]
        found = violation(grid, batches, draws)
        expected = pair_by_pair(grid, batches.tolist(), draws.tolist())
        assert (found is None) == (expected is None)
        assert found is None or expected is None or found.startswith(expected)
        kinds.add(expected and expected.split(maxsplit=5)[-1])
    assert kinds == {None, "hold different batches", "drew the same weights", "hold the same batch"}


@pytest.mark.parametrize(("sample_ranks", "data_ranks"), [(64, 64), (1, 4096), (4096, 1)])
def test_the_guard_on_four_thousand_ranks(sample_ranks: int, data_ranks: int) -> None:
    grid, ranks = Grid(sample_ranks, data_ranks, 0), range(4096)
    batches = np.array([r // sample_ranks for r in ranks]) - 2000
    draws = np.array([1 + r % sample_ranks for r in ranks])
    assert violation(grid, batches, draws) is None
    if sample_ranks > 1:
        draws[4095] = draws[4096 - sample_ranks]
        message = violation(grid, batches, draws)
        assert message is not None
        assert f"{4096 - sample_ranks} and 4095 drew the same weights" in message
    if data_ranks > 1:
        batches[4096 - sample_ranks :] = batches[0]
        message = violation(grid, batches, draws)
        assert message is not None
        assert f"0 and {4096 - sample_ranks} hold the same batch" in message


@pytest.mark.parametrize("size", [1, 2, 3])
def test_sums_that_prove_equality(size: int) -> None:
    """The largest number that may be given, and one that differs by one on one rank."""
    largest = 2**20 - 1

    def work(group: Group) -> tuple[list[float], list[int], list[bool]]:
        counts = [largest, largest - (group.rank == size - 1), 0]
        return total_of(group, [0.5 + group.rank], counts, name="loss")

    sums = [size * largest, size * largest - 1, 0]
    expected = ([sum(0.5 + r for r in range(size))], sums, [True, size == 1, True])
    assert on_ranks(size, work) == [expected] * size


def test_an_infinite_sum_does_not_spoil_the_proof() -> None:
    (total,), sums, same = total_of(ALONE, [float("nan")], [3], name="loss")
    assert math.isnan(total)
    assert (sums, same) == ([3], [True])


def test_buffers_are_guarded_too() -> None:
    def work(group: Group) -> None:
        world = on_grid(group, 2, 1)
        draw = torch.full((3,), float(world.grid.sample_rank))
        buffers = {"mask": torch.tensor([True, group.rank == 0])}
        same = draw * 0
        check(world, step=3, parameters={"a": same}, batch=[same], draw=draw, buffers=buffers)

    assert common_message(outcomes(2, work)).startswith(
        "step 3: buffer mask differs between world ranks 0 and 1;"
    )
