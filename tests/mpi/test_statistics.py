"""Statistics of packs, of files of both formats, on any number of ranks: those of numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.statistics import statistics
from hpc_bnn.fields.statistics_file import Statistics
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.fields.values import Values
from hpc_bnn.group import Group

STEP_HOURS = 12
VARIABLES = {"variables": ["t2m", "msl", "z"], "levels": [500.0]}


def states(path: Path) -> NDArray[np.float64]:
    """Read everything (T, C, H, W)."""
    files = catalogue(path, **VARIABLES)
    values = Values(files).read(range(len(files.channels)), 0, len(files.times))
    return values.astype(np.float64)


@pytest.mark.parametrize("format", ["new", "legacy"])
def test_any_number_of_ranks_gives_the_numbers_of_numpy(
    all_ranks: Group, tmp_path: Path, format: Any
) -> None:
    folder, ranks = Path(all_ranks.broadcast(str(tmp_path), name="folder")), all_ranks

    def make() -> None:
        write_toy(
            folder / "source", years=1, rows=6, columns=14, step_hours=STEP_HOURS, format=format
        )
        ingest(catalogue(folder / "source"), folder / "all")
        ingest(catalogue(folder / "source", **VARIABLES), folder / "some")

    all_ranks.on_first(make, name="files")
    found: list[Statistics] = []
    for name in ("all", "some"):
        made = ranks.on_first(lambda name=name: open_pack(folder / name, **VARIABLES), name="pack")
        found.append(
            statistics(
                made, start="2001-01-01", end="2001-12-31", step_hours=STEP_HOURS, ranks=ranks
            )
        )
    for name in Statistics.__annotations__:  # bit for bit, and known to be of the same files
        assert np.array_equal(getattr(found[0], name), getattr(found[1], name)), name

    exact = states(folder / "source")
    changes, axes, got = exact[1:] - exact[:-1], (0, 2, 3), found[0]
    assert len(exact) == 730
    std, change_std = exact.std(axis=axes), changes.std(axis=axes)
    np.testing.assert_allclose(got.std, std, rtol=1e-12)
    np.testing.assert_allclose(got.tendency_std, change_std, rtol=1e-12)
    np.testing.assert_allclose(got.mean, exact.mean(axis=axes), rtol=1e-12)
    assert (np.abs(got.tendency_mean - changes.mean(axis=axes)) <= 1e-12 * change_std).all()
    assert (got.minimum == exact.min(axis=axes)).all()
    assert (got.maximum == exact.max(axis=axes)).all()
    assert (got.count == exact[:, 0].size).all()
