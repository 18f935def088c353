"""Blocks hold everything once; damage and changes of the source are found."""

import logging
import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cache_files import MAKES, absent, everything, new, same, write_static
from era5_files import START, hours, write_new
from hpc_bnn.fields.cache.blocks import Block, blocks_of, pieces, positions, shares
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.verify import verify
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue


@pytest.fixture(params=MAKES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    made: Path = MAKES[request.param](tmp_path / "source")
    write_static(made)
    return made


@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 26])
def test_blocks_hold_everything_once_and_no_chunk_twice(source: Path, block_bytes: int) -> None:
    made = catalogue(source)
    blocks = blocks_of(made, block_bytes=block_bytes)
    shape = (len(made.times), *made.shape)
    seen = np.zeros(shape, int)
    read: dict[tuple[int, ...], int] = {}
    for at, block in enumerate(blocks):
        _mark(seen, block)
        flat = np.zeros(shape, int).reshape(-1)
        width = (block.rows[1] - block.rows[0]) * shape[3]
        for _, places in pieces(block, shape):
            for place, first, last in places:
                flat[place : place + (last - first) * width] += 1
        alone = np.zeros(shape, int)
        _mark(alone, block)
        assert np.array_equal(flat.reshape(shape), alone)
        for chunk in _chunks(made, block):
            assert read.setdefault(chunk, at) == at, f"chunk {chunk} is read by two blocks"
    assert (seen == 1).all()
    for count in (1, 2, 3, 7):
        assert sorted(chain(*shares(blocks, count))) == list(range(len(blocks)))


def _mark(seen: NDArray[Any], block: Block) -> None:
    seen[np.ix_(positions(block.times), block.channels, range(*block.rows))] += 1


def _chunks(made: Catalogue, block: Block) -> set[tuple[int, ...]]:
    """List the stored chunks that a block needs, whole rows apart."""
    part = made.parts[block.part]
    if block.part < 0 or part.chunks is None:
        return set()
    length = dict(zip(part.axes, part.chunks, strict=True))
    height = made.shape[1]
    rows = range(*block.rows)
    stored = [height - 1 - r for r in rows] if part.file.orientation.flip_rows else list(rows)
    return {
        (
            block.part,
            int(made.channels[c].step[t]) // length["time"],
            made.channels[c].level_index[block.part] // length.get("level", 1),
            row // length["latitude"],
        )
        for t in positions(block.times)
        for c in block.channels
        for row in stored
    }


def change_time(path: Path) -> None:
    now = path.stat()
    os.utime(path, ns=(now.st_atime_ns, now.st_mtime_ns + 10**9))


def change_content(path: Path) -> None:
    before, raw = path.stat(), bytearray(path.read_bytes())
    raw[-1] ^= 255
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_time, r"a\.nc was written at .* UTC, it was last written at"),
        (change_content, r"a\.nc has other content"),
        (lambda path: path.write_bytes(path.read_bytes() + b"0"), r"a\.nc has \d+ bytes, it had"),
        (lambda path: path.unlink(), r"a\.nc is gone"),
        (lambda path: write_new(path.with_name("c.nc"), hours(2)), r"c\.nc was added"),
    ],
)
def test_a_stale_cache_is_refused(
    tmp_path: Path, change: Callable[[Path], object], words: str
) -> None:
    repack(catalogue(absent(tmp_path)), tmp_path / "cache")
    catalogue(tmp_path / "cache")
    change(tmp_path / "a.nc")
    with pytest.raises(ValueError, match=f"stale.*{words}.*repack .* into a new folder"):
        catalogue(tmp_path / "cache")
    assert any("stale" in one for one in catalogue(tmp_path / "cache", strict=False).problems)


def test_a_cache_without_its_sources_is_used_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    repack(catalogue(absent(tmp_path)), tmp_path / "cache")
    want = everything(catalogue(tmp_path / "cache"))
    for path in tmp_path.glob("*.nc"):
        path.unlink()
    (tmp_path / "cache").rename(tmp_path / "moved")
    with caplog.at_level(logging.INFO):
        assert same(everything(catalogue(tmp_path / "moved")), want)
    assert "are not here; it is used without comparing them" in caplog.text


def test_verify_finds_every_kind_of_damage(source: Path, tmp_path: Path) -> None:
    made, folder = catalogue(source), tmp_path / "cache"
    repack(made, folder, block_bytes=2000)
    assert verify(folder) == () == verify(folder, source=made)
    for name in ("fields.npy", "static.npy"):
        raw = (folder / name).read_bytes()
        turned = bytearray(raw)
        turned[-1] ^= 1
        (folder / name).write_bytes(turned)
        assert [name in one and "checksum differs" in one for one in verify(folder)] == [True]
        if name == "fields.npy":
            assert "differs from the source" in " ".join(verify(folder, source=made))
        (folder / name).write_bytes(raw[:-1])
        assert name in verify(folder)[0]
        (folder / name).write_bytes(raw)
    assert verify(folder) == ()
    (folder / "fields.npy").write_bytes((folder / "fields.npy").read_bytes()[:-1])
    with pytest.raises(ValueError, match="cut off or copied in part"):
        catalogue(folder)


def test_verify_refuses_a_source_of_other_times(tmp_path: Path) -> None:
    made = catalogue(new(tmp_path))
    repack(made, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"differs from this cache in .*times"):
        verify(tmp_path / "cache", source=made.between(START, START + 3600))
