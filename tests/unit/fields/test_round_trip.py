"""One atmosphere in every format gives one pack, bit for bit."""

from pathlib import Path
from typing import Any

import pytest
from broken_off import killed_at
from store_files import TIMES, WANTED, anemoi, grib, toy, weatherbench

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.ingest import ingest

FORMATS: dict[str, Any] = {
    "weatherbench-2": lambda source, path: weatherbench(source, path / "wb.zarr"),
    "weatherbench-3": lambda source, path: weatherbench(source, path / "wb.zarr", version=3),
    "weatherbench-chunks": lambda source, path: weatherbench(source, path / "wb.zarr", steps=5),
    "anemoi-2": lambda source, path: anemoi(source, path / "an.zarr"),
    "anemoi-3": lambda source, path: anemoi(source, path / "an.zarr", version=3, steps=4),
    "grib": lambda source, path: grib(source, path / "fields.grib"),
}


def first(files: Catalogue) -> Catalogue:
    return files.between(int(files.times[0]), int(files.times[TIMES - 1]))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("toy") / "source")


@pytest.fixture(scope="module")
def expected(source: Path) -> Path:
    ingest(first(catalogue(source, **WANTED)), source.with_name("pack"))
    return source.with_name("pack")


@pytest.mark.parametrize("name", FORMATS)
def test_packs_of_all_formats_are_equal(
    name: str, source: Path, expected: Path, tmp_path: Path
) -> None:
    header = ingest(catalogue(FORMATS[name](source, tmp_path), **WANTED), tmp_path / "pack")
    assert header.periodic and [c.name for c in header.channels][-2:] == ["v500", "v850"]
    assert [c.units for c in header.channels][:5] == ["K", "m s-1", "m s-1", "Pa", "m2 s-2"]
    for part in ("2001.f32", "2001.json", "static.f32"):
        assert (tmp_path / "pack" / part).read_bytes() == (expected / part).read_bytes()


@pytest.mark.parametrize("name", ["weatherbench-3", "anemoi-2", "grib"])
def test_a_job_that_was_killed_goes_on(
    name: str, source: Path, expected: Path, tmp_path: Path
) -> None:
    """In processes that are forked from one that has read the same store."""
    path, folder = FORMATS[name](source, tmp_path), tmp_path / "pack"

    def work() -> None:
        ingest(catalogue(path, **WANTED), folder, block_bytes=1)

    assert len(catalogue(path, **WANTED).times) == TIMES
    for number in (7, 12):
        assert killed_at(work, number)
    work()
    for part in ("2001.f32", "2001.json", "static.f32"):
        assert (folder / part).read_bytes() == (expected / part).read_bytes()
