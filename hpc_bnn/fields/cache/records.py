"""What is done of a cache that is being written: one line of JSON for each block, appended.

A block has its line only when its data is on the disk, so a job may be killed at any moment. Each
rank appends to a file of its own; the next job begins by merging them into one.

    FOLDER/done.jsonl          of earlier jobs
    FOLDER/done-RANK.jsonl     of the present one
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpc_bnn.files import sync_folder, unwritable, write_whole

Range = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Done:
    """Checksums of written blocks, and the smallest and largest values of blocks that were read,
    both by position of the block.
    """

    written: dict[int, int] = field(default_factory=dict)
    ranges: dict[int, Range] = field(default_factory=dict)


def merge(folder: Path) -> Done:
    """Collect what earlier jobs did into one file; for one process.

    What stands behind the last end of a line was not finished and is not counted.
    """
    done = Done()
    paths = record_paths(folder)
    for path in paths:
        for line in path.read_bytes().split(b"\n")[:-1]:
            try:
                record = json.loads(line)
            except ValueError:  # cut off by a full disk, then continued
                continue
            if "crc32" in record:
                done.written[record["block"]] = record["crc32"]
            else:
                smallest, largest = record["range"]
                done.ranges[record["block"]] = (tuple(smallest), tuple(largest))
    lines = [_range_line(block, found) for block, found in sorted(done.ranges.items())]
    lines += [_written_line(block, found) for block, found in sorted(done.written.items())]
    write_whole(folder / "done.jsonl", b"".join(lines))
    for path in paths:
        if path.name != "done.jsonl":
            path.unlink()
    return done


def record_paths(folder: Path) -> list[Path]:
    """List the files of records."""
    return sorted(folder.glob("done*.jsonl"))


class Records:
    """Appends what this rank has done."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._path = folder / f"done-{rank:05d}.jsonl"
        try:
            self._file = self._path.open("ab", buffering=0)
            sync_folder(folder)
        except OSError as error:
            raise unwritable(error, self._path) from error

    def range(self, block: int, found: Range) -> None:
        """Note the smallest and largest values of the channels of a block."""
        self._append(_range_line(block, found))

    def written(self, block: int, crc32: int) -> None:
        """Note that the data of a block has reached the disk."""
        self._append(_written_line(block, crc32))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise unwritable(error, self._path) from error


def _range_line(block: int, found: Range) -> bytes:
    return _line({"block": block, "range": found})


def _written_line(block: int, crc32: int) -> bytes:
    return _line({"block": block, "crc32": crc32})


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record).encode() + b"\n"
