"""Ranks that pack together write, byte for byte, what one rank writes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_files import anemoi, grib, weatherbench

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.reader import read
from hpc_bnn.fields.pack.verify import verify
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.fields.values import Values
from hpc_bnn.group import Group

BLOCK = 1 << 18


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Path:
    """The folder of the first rank, with files of a toy atmosphere."""
    folder = Path(all_ranks.broadcast(str(tmp_path), name="folder"))
    all_ranks.on_first(
        lambda: write_toy(folder / "source", years=2, rows=8, columns=16, step_hours=24),
        name="toy",
    )
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_any_number_of_ranks_writes_the_same_bytes(all_ranks: Group, folder: Path) -> None:
    ranks = all_ranks
    files = ranks.on_first(lambda: catalogue(folder / "source"), name="catalogue")
    ingest(files, folder / "together", block_bytes=BLOCK, ranks=ranks)
    ranks.on_first(lambda: ingest(files, folder / "alone", block_bytes=BLOCK), name="alone")
    assert set(content(folder / "together")) >= {"2001.f32", "2002.f32", "2001.json", "pack.json"}
    assert content(folder / "together") == content(folder / "alone")
    assert verify(folder / "together", source=files, ranks=ranks) == ()

    pack = ranks.on_first(lambda: open_pack(folder / "together"), name="pack")
    field = np.empty(pack.shape, np.float32)
    for step in range(all_ranks.rank, len(pack.times), 37):
        read(pack, step, field)
        want = Values(files).read(range(len(files.channels)), step, step + 1)[0]
        assert np.array_equal(field, want)


@pytest.mark.parametrize("write", [weatherbench, anemoi, grib])
def test_stores_and_grib_files_are_packed_together(
    all_ranks: Group, folder: Path, write: Callable[[Path, Path], Path]
) -> None:
    ranks, path = all_ranks, folder / "store"
    files = ranks.on_first(
        lambda: catalogue(write(folder / "source", path), levels=[500, 850]), name="catalogue"
    )
    ingest(files, folder / "together", block_bytes=1, ranks=ranks)
    ranks.on_first(lambda: ingest(files, folder / "alone"), name="alone")
    assert content(folder / "together") == content(folder / "alone")
    assert verify(folder / "together", source=files, ranks=ranks) == ()


def test_damage_is_found_by_one_rank_and_known_to_all(all_ranks: Group, folder: Path) -> None:
    ranks = all_ranks
    files = ranks.on_first(lambda: catalogue(folder / "source"), name="catalogue")
    ingest(files, folder / "pack", ranks=ranks)

    def damage() -> None:
        raw = bytearray((folder / "pack" / "2002.f32").read_bytes())
        raw[4] ^= 1
        (folder / "pack" / "2002.f32").write_bytes(raw)

    ranks.on_first(damage, name="damage")
    (wrong,) = verify(folder / "pack", ranks=ranks)
    assert "2002.f32: 2002-01-01T00:00: the checksum differs" in wrong


def test_files_are_packed_by_all_ranks_at_the_start_of_a_run(
    all_ranks: Group, folder: Path
) -> None:
    for _ in range(2):
        source = era5(
            folder / "source",
            variables=["t2m", "z"],
            levels=[500],
            step_hours=24,
            train=("2001-01-01", "2001-12-31"),
            validation=("2002-01-01", "2002-01-20"),
            test=("2002-02-01", "2002-12-31"),
            ranks=all_ranks,
        )
        assert len(source.train) == 364
    assert (folder / "source.pack" / "pack.json").exists()
    assert verify(folder / "source.pack", ranks=all_ranks) == ()
