"""Codecs of a zarr store that are no data formats: those that run what the store holds.

numcodecs registers a codec "pickle" for arrays of Python objects; to decode a chunk of it is to run
a program that came with the store. zarr 3.1.6 refuses it where it looks at the type of an array;
other releases need not. No store of fields needs it, so none that names it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

RUNS = "pickle"
ATTRIBUTES = ("attributes", ".zattrs")  # which may hold any words


def refuse_pickles(metadata: Sequence[Path]) -> None:
    """Refuse a store whose metadata, of whatever array, name a codec that unpickles.

    Files that are no JSON are left to zarr, which says what is wrong.

    Raises
    ------
    ValueError
        Names the first such file.
    """
    for path in metadata:
        if path.name == ".zattrs":
            continue
        try:
            held = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if any(RUNS in name.lower() for name in _codec_names(held)):
            raise ValueError(
                f"{path}: names the codec {RUNS!r}, which runs what the store holds: refused, "
                "nothing of it was run; write the store again without arrays of Python objects"
            )


def _codec_names(held: object) -> Iterator[str]:
    """Return the names of all codecs: in format 2 by ``id``, in 3 by ``name``."""
    waiting = [held]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [value for key, value in one.items() if key not in ATTRIBUTES]
            yield from (v for k in ("id", "name") if isinstance(v := one.get(k), str))
        elif isinstance(one, list):
            waiting += one
