"""A format of fields is one module and one line in ``FORMATS``: nothing else knows of it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.files import FORMATS
from hpc_bnn.fields.ingest.header import Header, VariableHeader
from hpc_bnn.fields.pack.ingest import ingest
from hpc_bnn.fields.pack.pack import open_pack
from hpc_bnn.fields.pack.reader import PackReader

UNITS = {"time": "hours since 2001-01-01", "latitude": "degrees_north", "longitude": "degrees_east"}
MODULES = ["SUFFIXES", "recognises", "content", "read_headers", "read", "close"]


def read_headers(path: str) -> tuple[Header]:
    """Describe an npz file: an array of each axis, and t2m along all of them."""
    with np.load(path) as file:
        axes = {name: file[name] for name in UNITS}
    variables = {
        name: VariableHeader(name, "<f8", (name,), v.shape, {"units": UNITS[name]})
        for name, v in axes.items()
    }
    shape = tuple(len(v) for v in axes.values())
    variables["t2m"] = VariableHeader("t2m", "<f4", tuple(axes), shape, {"units": "K"})
    size, dimensions = Path(path).stat().st_size, dict(zip(axes, shape, strict=True))
    return (Header(path, "npz", "npz", size, dimensions, variables, {}, axes),)


def read(path: str, size: int, variable: str, index: tuple[Any, ...]) -> NDArray[Any]:
    with np.load(path) as file:
        values: NDArray[Any] = file[variable][index]
    return values


NPZ = SimpleNamespace(
    SUFFIXES=(".npz",),
    recognises=lambda path: path.suffix == ".npz",
    content=lambda path: [path],
    read_headers=read_headers,
    read=read,
    close=lambda path: None,
)


def test_a_module_and_a_line_are_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(280, 5, (5, 4, 8)).astype(np.float32)
    axes = {"time": np.arange(5.0) * 6, "latitude": np.array([67.5, 22.5, -22.5, -67.5])}
    np.savez(tmp_path / "a.npz", **axes, longitude=np.arange(0, 360, 45.0), t2m=values)
    with pytest.raises(ValueError, match=r"a\.npz: .*zip"):
        catalogue(tmp_path / "a.npz")
    monkeypatch.setitem(FORMATS, "npz", NPZ)
    ingest(catalogue(tmp_path / "a.npz"), tmp_path / "pack")
    pack, got = open_pack(tmp_path / "pack"), np.empty((1, 4, 8), np.float32)
    for step, want in enumerate(values):
        PackReader(pack).read(step, got)
        np.testing.assert_array_equal(got[0], want)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_names_of_the_contract(name: str) -> None:
    assert [one for one in MODULES if not hasattr(FORMATS[name], one)] == []
