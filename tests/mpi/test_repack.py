"""Ranks that repack together write, byte for byte, what one rank writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.verify import verify

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.reader import Reader
from hpc_bnn.fields.toy_atmosphere import write_toy
from hpc_bnn.parallel.channel import Channel
from hpc_bnn.parallel.comms import on_first
from hpc_bnn.parallel.ranks import ChannelRanks

BLOCK = 1 << 18  # some thirty blocks


@pytest.fixture
def folder(channel: Channel, tmp_path: Path) -> Iterator[Path]:
    """The folder of the first rank, with files of a toy atmosphere."""
    made = Path(channel.broadcast(str(tmp_path), name="folder"))
    on_first(
        channel,
        lambda: write_toy(made / "source", years=1, rows=8, columns=16, step_hours=24),
        name="toy",
    )
    yield made


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_any_number_of_ranks_writes_the_same_bytes(
    channel: Channel, folder: Path, dtype: str
) -> None:
    ranks = ChannelRanks(channel)
    made = ranks.on_first(lambda: catalogue(folder / "source"), name="catalogue")
    together = repack(made, folder / "together", dtype=dtype, block_bytes=BLOCK, ranks=ranks)
    assert len(together.request.blocks) >= 2 * channel.size
    ranks.on_first(
        lambda: repack(made, folder / "alone", dtype=dtype, block_bytes=BLOCK), name="alone"
    )
    assert content(folder / "together") == content(folder / "alone")
    assert verify(folder / "together", source=made, ranks=ranks) == ()

    cached = ranks.on_first(lambda: catalogue(folder / "together"), name="cache")
    got, want = np.empty(made.shape, np.float32), np.empty(made.shape, np.float32)
    for step in range(channel.rank, len(made.times), 37):
        Reader(cached).read(step, got)
        Reader(made).read(step, want)
        assert np.array_equal(got, want) or dtype == "int16"


def test_any_number_of_ranks_writes_the_same_netcdf_files(channel: Channel, folder: Path) -> None:
    ranks = ChannelRanks(channel)
    made = ranks.on_first(lambda: catalogue(folder / "source"), name="catalogue")
    options: dict[str, Any] = {"format": "netcdf", "file_bytes": BLOCK // 4, "block_bytes": BLOCK}
    together = repack(made, folder / "together", **options, ranks=ranks)
    assert len(together.request.targets) >= 2 * channel.size
    ranks.on_first(lambda: repack(made, folder / "alone", **options), name="alone")
    assert content(folder / "together") == content(folder / "alone")
    assert verify(folder / "together", source=made, ranks=ranks) == ()

    files = ranks.on_first(lambda: catalogue(folder / "together"), name="files")
    got, want = np.empty(made.shape, np.float32), np.empty(made.shape, np.float32)
    for step in range(channel.rank, len(made.times), 37):
        Reader(files.select(made.names)).read(step, got)
        Reader(made).read(step, want)
        assert np.array_equal(got, want)


def test_damage_is_found_by_one_rank_and_known_to_all(channel: Channel, folder: Path) -> None:
    ranks = ChannelRanks(channel)
    made = ranks.on_first(lambda: catalogue(folder / "source"), name="catalogue")
    repack(made, folder / "cache", block_bytes=BLOCK, ranks=ranks)

    def damage() -> None:
        raw = bytearray((folder / "cache" / "fields.npy").read_bytes())
        raw[-1] ^= 1
        (folder / "cache" / "fields.npy").write_bytes(raw)

    ranks.on_first(damage, name="damage")
    wrong = verify(folder / "cache", ranks=ranks)
    assert len(wrong) == 1 and "the checksum differs" in wrong[0]
