"""Several ranks read one data set: the same numbers, bit for bit, and an end for all if one fails.

Ranks are threads of one process here, so the files are netCDF-3: HDF5 2.2.0 crashes where a file
with texts in it (expver) is open twice, the first of both is closed, and it is opened once more.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from era5_files import HOUR, START, hours, write_legacy
from numpy.typing import NDArray
from packs import packed
from thread_group import on_ranks, outcomes

from hpc_bnn.data import Source
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.fields.pack.reader import read
from hpc_bnn.fields.pack.same_files import require_same_files
from hpc_bnn.fields.statistics import BLOCK, statistics
from hpc_bnn.fields.statistics_file import Statistics
from hpc_bnn.group import ALONE, Group, RankError

TIMES = 3 * BLOCK + 20  # four blocks, the last of them shorter
SECOND = 2 * BLOCK + 5  # first time of the second file, within a block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    every = hours(TIMES)
    write_legacy(made / "a.nc", every[:SECOND], ["t2m", "msl"])
    write_legacy(made / "b.nc", every[SECOND:], ["t2m", "msl"])
    return made


def whole(made: Pack, ranks: Group) -> Statistics:
    return statistics(made, start="2017-01-01", end="2017-12-31", step_hours=12, ranks=ranks)


@pytest.fixture(scope="module")
def pack(folder: Path) -> Pack:
    return packed(folder)


@pytest.fixture(scope="module")
def states(pack: Pack) -> NDArray[np.float64]:
    out = np.empty((TIMES, *pack.shape), np.float32)
    for at, field in enumerate(out):
        read(pack, at, field)
    return out.astype(np.float64)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_statistics_are_the_same_bit_for_bit(
    pack: Pack, size: int, states: NDArray[np.float64]
) -> None:
    """Six ranks: more of them than blocks."""
    alone = statistics(pack, start="2017-01-01", end="2017-12-31", step_hours=12)
    for made in on_ranks(size, lambda ranks: whole(pack, ranks)):
        for name in Statistics.__annotations__:
            assert np.array_equal(getattr(made, name), getattr(alone, name)), name
    axes, changes = (0, 2, 3), states[2:] - states[:-2]
    std, change_std = states.std(axis=axes), changes.std(axis=axes)
    np.testing.assert_allclose(alone.std, std, rtol=1e-12)
    np.testing.assert_allclose(alone.tendency_std, change_std, rtol=1e-12)
    assert (np.abs(alone.mean - states.mean(axis=axes)) <= 1e-12 * std + 1e-15 * 1e5).all()
    assert (np.abs(alone.tendency_mean - changes.mean(axis=axes)) <= 1e-12 * change_std).all()
    assert (alone.minimum == states.min(axis=axes)).all()
    assert (alone.maximum == states.max(axis=axes)).all()
    assert (alone.count == states[:, 0].size).all()


def source(path: Path, ranks: Group) -> Source:
    return era5(
        path,
        variables=["t2m", "msl"],
        step_hours=6,
        history=2,
        train=("2017-01-01", "2017-03-20"),
        validation=("2017-03-21", "2017-03-25"),
        test=("2017-03-26", "2017-12-31"),
        ranks=ranks,
    )


@pytest.mark.parametrize("size", [2, 3])
def test_every_rank_gets_the_same_source(folder: Path, size: int) -> None:
    alone = source(folder, ALONE)
    assert alone.fields is not None
    last = torch.tensor([0, len(alone.train) - 1])
    want_x, want_y = alone.train.batch(last)
    for made in on_ranks(size, lambda ranks: source(folder, ranks)):
        assert made.input_shape == alone.input_shape
        assert made.fields is not None
        for name in ("state_mean", "state_std", "tendency_std", "latitude", "test_times"):
            assert torch.equal(getattr(made.fields, name), getattr(alone.fields, name)), name
        x, y = made.train.batch(last)
        assert torch.equal(x, want_x)
        assert torch.equal(y, want_y)


def test_headers_are_read_by_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_legacy(tmp_path / "a.nc", hours(TIMES), ["t2m", "msl"])
    reads: list[Path] = []

    def counted(path: Path, **options: Any) -> Catalogue:
        reads.append(path)
        return catalogue(path, **options)

    monkeypatch.setattr("hpc_bnn.fields.pack.automatic.catalogue", counted)
    on_ranks(3, lambda ranks: source(path, ranks))
    assert reads == [path]


def test_a_file_that_is_gone_ends_every_rank(tmp_path: Path) -> None:
    """Only the ranks whose blocks lie in it notice; the others hear of it."""
    write_legacy(tmp_path / "a.nc", hours(4 * BLOCK, start=START - 2 * BLOCK * 6 * HOUR))
    made = packed(tmp_path / "a.nc")
    made.path(-1).unlink()

    def work(ranks: Group) -> Statistics:
        return statistics(made, start="2016-01-01", end="2017-12-31", step_hours=6, ranks=ranks)

    ended = outcomes(4, lambda ranks: work(ranks))
    assert all(isinstance(error, Exception) for error in ended)
    assert type(ended[0]) is RankError
    assert [isinstance(error, RankError) for error in ended[2:]] == [False, False]
    for error in ended:
        assert "2017.f32" in str(error)


def test_files_that_only_the_first_rank_cannot_use_end_every_rank(tmp_path: Path) -> None:
    ended = outcomes(3, lambda all_ranks: source(tmp_path / "none", all_ranks))
    assert isinstance(ended[0], FileNotFoundError)
    assert [type(error) for error in ended[1:]] == [RankError, RankError]
    assert all(str(tmp_path / "none") in str(error) for error in ended)


def test_a_range_without_times_is_an_error_on_every_rank(pack: Pack) -> None:
    ended = outcomes(
        3,
        lambda ranks: statistics(
            pack, start="2018-01-01", end="2018-02-01", step_hours=6, ranks=ranks
        ),
    )
    for error in ended:
        assert isinstance(error, ValueError)
        assert "has no value in the range" in str(error)


def test_another_pack_on_one_rank_ends_every_rank(folder: Path, tmp_path: Path) -> None:
    """A copy on a node's own disk, of the same size: one year is an older version."""
    pack = packed(folder)
    copy = tmp_path / "copy"
    shutil.copytree(pack.folder, copy)
    file = copy / "2017.f32"
    values = np.fromfile(file, "<f4")
    values[values.size // 2 :] += 0.5
    values.tofile(file)

    def work(ranks: Group) -> None:
        require_same_files(pack if ranks.rank < 2 else replace(pack, folder=copy), ranks)

    ended = outcomes(3, work)
    assert {type(error) for error in ended} == {ValueError}
    (said,) = {str(error) for error in ended}
    assert "2017.f32: 2017-" in said
    assert "other values on world rank 2 than on world rank 0: all nodes must read the" in said
    file.unlink()
    ended = outcomes(3, work)
    assert {type(error) for error in ended} == {OSError}
    (said,) = {str(error) for error in ended}
    assert "2017.f32: cannot be read on world rank 2: No such file" in said
    assert on_ranks(3, lambda ranks: require_same_files(pack, ranks)) == [None] * 3
    assert on_ranks(1, lambda ranks: require_same_files(pack, ranks)) == [None]
