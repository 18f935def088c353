"""Packs of the tests, and what their readers give."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.catalogue import Catalogue
from hpc_bnn.fields.pack.automatic import default_folder
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import Pack, open_pack
from hpc_bnn.fields.pack.reader import PackReader


def packed(source: Path, folder: Path | None = None, **wanted: Any) -> Pack:
    """Pack files, all of them, beside them where no folder is given; open some of the pack."""
    folder = folder or default_folder(source)
    ingest(catalogue(source), folder)
    return open_pack(folder, **wanted)


def fingerprint_of(files: Catalogue) -> str:
    """Hash names and sizes of files, and times, as version 0.1 did: statistics stay valid."""
    return hashlib.sha256(repr(files.files()).encode() + files.times.tobytes()).hexdigest()[:16]


def everything(pack: Pack, **options: Any) -> NDArray[np.float32]:
    """Read all complete times one by one."""
    reader = PackReader(pack, missing="keep", **options)
    where = np.flatnonzero(pack.present())
    out = np.empty((len(where), *pack.shape), np.float32)
    for at, one in zip(where.tolist(), out, strict=True):
        reader.read(at, one)
    reader.close()
    return out
