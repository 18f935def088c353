"""Statistics: equal to numpy in float64 for any split, and kept in a file."""

from functools import reduce
from itertools import pairwise
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from era5_files import hours, write_new
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packs import packed

from hpc_bnn.fields.pack.reader import read
from hpc_bnn.fields.statistics import (
    Moments,
    Statistics,
    finish,
    merge,
    moments,
    no_moments,
    no_tally,
    statistics,
    tally,
    within_range,
)
from hpc_bnn.fields.statistics_file import read_statistics, write_statistics


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=8),
    order=st.randoms(use_true_random=False),
    scale=st.sampled_from([(0.0, 2.0), (280.0, 15.0), (101325.0, 700.0)]),
    gaps=st.booleans(),
)
def test_any_split_in_any_order_equals_numpy(
    cuts: list[int], order: object, scale: tuple[float, float], gaps: bool
) -> None:
    values = np.random.default_rng(3).normal(*scale, (3, 300))
    if gaps:
        values[:, ::7] = np.nan
    edges = [0, *sorted(cuts), 300]
    parts = [moments(values[:, a:b]) for a, b in pairwise(edges)]
    order.shuffle(parts)  # type: ignore[attr-defined]
    total = reduce(merge, parts, no_moments(3))
    assert (total.count == (~np.isnan(values)).sum(axis=1)).all()
    np.testing.assert_allclose(total.mean, np.nanmean(values, axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.std(), np.nanstd(values, axis=1), rtol=1e-12)
    assert (total.smallest == np.nanmin(values, axis=1)).all()
    assert (total.largest == np.nanmax(values, axis=1)).all()


def test_nothing_is_the_neutral_element() -> None:
    one = moments(np.arange(6.0).reshape(2, 3))
    for both in (merge(one, no_moments(2)), merge(no_moments(2), one)):
        assert all(
            np.array_equal(getattr(both, f), getattr(one, f)) for f in Moments.__annotations__
        )
    assert np.isnan(no_moments(2).std()).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_new(tmp_path / "a.nc", hours(10), ["t2m", "msl"])
    write_new(tmp_path / "b.nc", hours(20)[12:], ["t2m", "msl"])  # two steps are missing
    return tmp_path


def reference(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all states (T, C, H W) and all changes over 12 h."""
    made = packed(folder)
    states = np.empty((len(made.times), *made.shape), np.float32)
    for at, out in enumerate(states):
        read(made, at, out)
    exact = states.astype(np.float64).reshape(len(states), 2, -1)
    at_time = dict(zip(made.times.tolist(), exact, strict=True))
    changes = [at_time[t + 43200] - s for t, s in at_time.items() if t + 43200 in at_time]
    return exact, np.array(changes)


def whole(folder: Path) -> Statistics:
    return statistics(packed(folder), start="2017-01-01", end="2017-12-31", step_hours=12)


def test_states_and_tendencies_equal_numpy(folder: Path) -> None:
    states, changes = reference(folder)
    assert len(states) == 18
    assert len(changes) == 8 + 6  # none starts or ends in the gap
    made = whole(folder)
    for got, array in (
        (made.mean, states.mean(axis=(0, 2))),
        (made.std, states.std(axis=(0, 2))),
        (made.minimum, states.min(axis=(0, 2))),
        (made.maximum, states.max(axis=(0, 2))),
        (made.tendency_mean, changes.mean(axis=(0, 2))),
        (made.tendency_std, changes.std(axis=(0, 2))),
    ):
        np.testing.assert_allclose(got, array, rtol=1e-12, atol=1e-11)
    assert made.channels == ("msl", "t2m")
    assert (made.start, made.end) == ("2017-01-01T00:00", "2017-01-05T18:00")


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("contiguous", [True, False])
def test_shares_of_ranks_give_the_same(folder: Path, ranks: int, contiguous: bool) -> None:
    made = packed(folder)
    within = within_range(made, 0, 2**40)
    indices = np.arange(len(made.times))
    shares = (
        np.array_split(indices, ranks) if contiguous else [indices[r::ranks] for r in range(ranks)]
    )
    total = no_tally(2)
    for share in reversed(shares):
        total = total.merge(tally(made, share.tolist(), step_hours=12, within=within))
    got, want = finish(made, total, step_hours=12, within=within), whole(folder)
    for name in ("mean", "std", "tendency_mean", "tendency_std", "count"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-12, atol=1e-11)


def test_only_the_range_counts(folder: Path) -> None:
    states, changes = reference(folder)
    made = statistics(packed(folder), start="2017-01-01", end="2017-01-02", step_hours=12)
    np.testing.assert_allclose(made.mean, states[:8].mean(axis=(0, 2)), rtol=1e-12)
    np.testing.assert_allclose(made.tendency_std, changes[:6].std(axis=(0, 2)), rtol=1e-12)


def test_an_empty_range_or_step_is_an_error(folder: Path) -> None:
    made = packed(folder)
    with pytest.raises(ValueError, match="'msl' has no value in the range"):
        statistics(made, start="2018-01-01", end="2018-01-02", step_hours=12)
    with pytest.raises(ValueError, match=r"'msl' has no tendency in the range.*5 h apart"):
        statistics(made, start="2017-01-01", end="2017-01-02", step_hours=5)


def test_statistics_are_kept_in_a_file(folder: Path, tmp_path: Path) -> None:
    made, path = whole(folder), tmp_path / "new" / "statistics.nc"
    write_statistics(path, made)
    again = read_statistics(path)
    for name in Statistics.__annotations__:
        assert np.array_equal(getattr(again, name), getattr(made, name)), name
    assert [p.name for p in path.parent.iterdir()] == ["statistics.nc"]
    chosen = again.select(["t2m"], ["K"], "here")
    assert chosen.mean == made.mean[1]
    with pytest.raises(ValueError, match="no statistics of 'z500'; has msl, t2m"):
        again.select(["z500"], ["m2 s-2"], "here")
    with pytest.raises(ValueError, match="'t2m' is in 'K', the data in 'degC'"):
        again.select(["t2m"], ["degC"], "here")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        *((name, np.nan, "is nan: expected a number") for name in ("mean", "tendency_mean")),
        *((name, np.inf, "is inf: expected a number of at") for name in ("std", "tendency_std")),
        *(
            (name, -2.0, "is -2: expected a number of at least 0")
            for name in ("std", "tendency_std")
        ),
    ],
)
def test_numbers_that_no_data_give(
    folder: Path, tmp_path: Path, name: str, value: float, words: str
) -> None:
    path = tmp_path / "statistics.nc"
    write_statistics(path, whole(folder))
    with netCDF4.Dataset(path, "a") as dataset:
        dataset.variables[name][1] = value
    with pytest.raises(ValueError) as caught:
        read_statistics(path)
    assert f"{path}: '{name}' of 't2m' {words}" in str(caught.value)


def test_other_files_are_no_statistics(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data statistics"):
        read_statistics(folder / "none.nc")
    with pytest.raises(ValueError, match="no file of statistics"):
        read_statistics(folder / "a.nc")
    (folder / "c.nc").write_bytes(b"hello")
    with pytest.raises(ValueError, match="cannot be read"):
        read_statistics(folder / "c.nc")
