"""Proof that all ranks read the same pack: where each node has a copy on a disk of its own, one may
be older than the others, and nothing else would show it.
"""

from __future__ import annotations

import hashlib

from hpc_bnn.fields import times
from hpc_bnn.fields.pack.pack import Pack
from hpc_bnn.group import Group

PIECES = 8
PIECE_BYTES = 4096


def require_same_files(pack: Pack, ranks: Group) -> None:
    """Collective: compare a few pieces of the fields of a pack, which rank 0 has opened for all.

    Raises
    ------
    ValueError
        On every rank, if one holds another file.
    OSError
        On every rank, if one cannot read its own; it names the first.
    """
    if ranks.size == 1:
        return
    count = min(PIECES, len(pack.times))
    places = [(i, i * len(pack.times) // count) for i in range(count)]

    def read() -> list[bytes] | OSError:
        try:
            return [_piece(pack, *place) for place in places]
        except OSError as error:
            return error

    mine = ranks.together(read, name="pack")
    problem = None
    if isinstance(mine, OSError):
        where = f"cannot be read on world rank {ranks.rank}"
        problem = f"{mine.filename}: {where}: {mine.strerror}; put the pack where all nodes see it"
    failed = ranks.first_text(problem, name="pack")
    if failed is not None:  # the others may fail alike: one of them is told
        raise OSError(failed[1])
    assert not isinstance(mine, OSError)
    first = ranks.broadcast(mine, name="pack")
    other = [at for (_, at), a, b in zip(places, first, mine, strict=True) if a != b]
    text = f"{pack.path(other[0])}: {times.text(int(pack.times[other[0]]))}" if other else None
    said = ranks.first_text(text, name="pack")
    if said is not None:
        raise ValueError(
            f"{said[1]}: other values on world rank {said[0]} than on world rank 0: all nodes must "
            "read the same pack; copy it again, or put it where all nodes see it"
        )


def _piece(pack: Pack, number: int, time: int) -> bytes:
    """Return a digest of the middle of a field of a step; the channels take turns."""
    channel, size = pack.positions[number % len(pack.positions)], pack.header.field_bytes
    offset = int(pack.slot[time]) * pack.header.stride + channel * size
    with pack.path(time).open("rb") as file:
        file.seek(offset + size // 2)
        content = file.read(min(PIECE_BYTES, size - size // 2))
    return hashlib.blake2b(content, digest_size=16).digest()
