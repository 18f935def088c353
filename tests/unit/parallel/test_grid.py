"""The grid of ranks: arithmetic for every small grid, and choices that do not fit."""

import re

import pytest

from hpc_bnn.parallel.grid import Grid, choose_sample_ranks, divisors

GRIDS = [(s, d) for s in range(1, 9) for d in range(1, 9)]


def everyone(sample_ranks: int, data_ranks: int) -> list[Grid]:
    return [Grid(sample_ranks, data_ranks, rank) for rank in range(sample_ranks * data_ranks)]


@pytest.mark.parametrize(("sample_ranks", "data_ranks"), GRIDS)
def test_rank_order_has_the_sample_axis_innermost(sample_ranks: int, data_ranks: int) -> None:
    expected = [(s, d) for d in range(data_ranks) for s in range(sample_ranks)]
    grids = everyone(sample_ranks, data_ranks)
    assert [(g.sample_rank, g.data_rank) for g in grids] == expected
    assert all(g.world_rank == g.data_rank * sample_ranks + g.sample_rank for g in grids)
    assert all(g.world_size == len(grids) for g in grids)


@pytest.mark.parametrize(("sample_ranks", "data_ranks"), GRIDS)
def test_axes_partition_the_world(sample_ranks: int, data_ranks: int) -> None:
    grids = everyone(sample_ranks, data_ranks)
    world = list(range(len(grids)))
    for axis, length, place in (
        ("sample_axis", sample_ranks, "sample_rank"),
        ("data_axis", data_ranks, "data_rank"),
    ):
        lines = {tuple(getattr(g, axis)) for g in grids}
        assert sorted(rank for line in lines for rank in line) == world
        for g in grids:
            line = getattr(g, axis)
            assert len(line) == length
            assert line[getattr(g, place)] == g.world_rank
            assert all(getattr(grids[rank], axis) == line for rank in line)


@pytest.mark.parametrize(("sample_ranks", "data_ranks"), GRIDS)
def test_samples_and_examples_are_shared_exactly(sample_ranks: int, data_ranks: int) -> None:
    for count in (1, 2, 3):
        samples, batch = count * sample_ranks, count * data_ranks
        owners: dict[tuple[int, int], int] = {}
        for g in everyone(sample_ranks, data_ranks):
            own, part = g.own_samples(samples), g.own_examples(batch)
            assert len(own) == len(part) == count
            for sample in own:
                for example in part:
                    assert owners.setdefault((sample, example), g.world_rank) == g.world_rank
        # Each weight sample sees each example on exactly one rank.
        assert set(owners) == {(s, b) for s in range(samples) for b in range(batch)}


@pytest.mark.parametrize(("samples", "sample_ranks"), [(6, 4), (3, 2), (0, 1), (-4, 2), (1, 8)])
def test_samples_that_do_not_divide(samples: int, sample_ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"posterior\.samples = {samples}: ") as caught:
        Grid(sample_ranks, 1, 0).own_samples(samples)
    assert f"the {sample_ranks} sample ranks" in str(caught.value)
    valid = ", ".join(map(str, divisors(max(1, samples))))
    assert str(caught.value).endswith(f"({valid})")


@pytest.mark.parametrize(("batch_size", "data_ranks"), [(10, 4), (3, 2), (0, 1), (-2, 2)])
def test_batches_that_do_not_divide(batch_size: int, data_ranks: int) -> None:
    with pytest.raises(ValueError, match=rf"train\.batch_size = {batch_size}: ") as caught:
        Grid(1, data_ranks, 0).own_examples(batch_size)
    assert f"the {data_ranks} data ranks" in str(caught.value)


def test_divisors() -> None:
    assert [divisors(n) for n in (1, 2, 7, 12, 16)] == [
        [1],
        [1, 2],
        [1, 7],
        [1, 2, 3, 4, 6, 12],
        [1, 2, 4, 8, 16],
    ]


@pytest.mark.parametrize("world", range(1, 17))
@pytest.mark.parametrize("per_node", [1, 2, 3, 4, 8])
def test_modes(world: int, per_node: int) -> None:
    per_node = min(per_node, world)
    assert choose_sample_ranks(world, per_node, mode="sample") == world
    assert choose_sample_ranks(world, per_node, mode="data") == 1
    if world % per_node == 0:
        assert choose_sample_ranks(world, per_node, mode="hybrid") == per_node
        assert choose_sample_ranks(world, per_node) == per_node
    else:
        with pytest.raises(ValueError, match="must divide") as caught:
            choose_sample_ranks(world, per_node, mode="hybrid")
        numbers = re.findall(r"\d+", str(caught.value))
        assert numbers == [str(n) for n in (per_node, world, *divisors(world))]
    if world == 1:
        assert choose_sample_ranks(1, 1, mode="local") == 1
    else:
        with pytest.raises(ValueError, match=f"this job has {world}"):
            choose_sample_ranks(world, per_node, mode="local")


@pytest.mark.parametrize("world", range(1, 17))
def test_given_sample_ranks(world: int) -> None:
    for wish in range(-1, world + 2):
        if wish in divisors(world):
            assert choose_sample_ranks(world, 1, sample_ranks=wish) == wish
        else:
            with pytest.raises(ValueError, match=rf"grid\.sample_ranks = {wish}: ") as caught:
                choose_sample_ranks(world, 1, sample_ranks=wish)
            valid = ", ".join(map(str, divisors(world)))
            assert f"must divide the {world} ranks of this job ({valid})" in str(caught.value)


@pytest.mark.parametrize("world", range(1, 17))
def test_mode_and_number_may_not_contradict(world: int) -> None:
    for wish in divisors(world):
        for mode, meaning in (("sample", world), ("data", 1)):
            if wish == meaning:
                assert choose_sample_ranks(world, 1, mode=mode, sample_ranks=wish) == wish
            else:
                with pytest.raises(ValueError, match="contradicts") as caught:
                    choose_sample_ranks(world, 1, mode=mode, sample_ranks=wish)
                assert f"grid.sample_ranks = {wish} contradicts grid.mode = {mode}" in str(
                    caught.value
                )
                assert f"which means {meaning} on {world} ranks" in str(caught.value)


def test_unknown_mode_and_wrong_type() -> None:
    with pytest.raises(ValueError, match=r"grid\.mode = 'both': expected local, sample, data or"):
        choose_sample_ranks(4, 4, mode="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grid\.sample_ranks = '2'"):
        choose_sample_ranks(4, 4, sample_ranks="2")  # type: ignore[arg-type]
