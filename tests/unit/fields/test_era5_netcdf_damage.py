"""Repacked netCDF files that are damaged as a whole are listed by the comparison with their source,
and never taken for a source that cannot be read.
"""

from pathlib import Path

import pytest
from cache_files import new, write_static
from hpc_bnn.fields.cache.blocks import BLOCK_BYTES
from hpc_bnn.fields.cache.netcdf_output import NetcdfOutput
from hpc_bnn.fields.cache.repack import repack
from hpc_bnn.fields.cache.verify import verify
from hpc_bnn.fields.reader import Reader

from hpc_bnn.fields.assemble import catalogue

FIELDS, STATIC, OTHER = (
    "t2m_20170101T0000_20170104T1800.nc",
    "lsm_static.nc",
    "msl_20170101T0000_20170104T1800.nc",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    write_static(new(tmp_path / "source"))
    return tmp_path / "source"


@pytest.mark.parametrize("name", [FIELDS, STATIC])
def test_files_that_cannot_be_read_are_listed(source: Path, name: str) -> None:
    """Cut off anywhere, no netCDF at all, another file under this name, or none."""
    made, folder = catalogue(source), source.with_name("made")
    request = repack(made, folder, format="netcdf").request
    path, output = folder / name, NetcdfOutput(folder, request, made, block_bytes=BLOCK_BYTES)
    raw, static = path.read_bytes(), Reader(made).static()
    other = (folder / OTHER).read_bytes()
    for damaged in (raw[: len(raw) // 2], raw[:-1], raw[:100], b"", b"x" * len(raw), other, None):
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        wrong = verify(folder, source=made)
        assert "the checksum differs: damaged or gone" in wrong[0]
        assert all(name in one for one in wrong)
        if name == STATIC:
            assert len(wrong) == 1 and output.static_differs(static)
        else:
            assert wrong[1:] == (f"{path}: differs from the source",)
    path.write_bytes(raw)
    assert verify(folder, source=made) == () and not output.static_differs(static)


def test_a_source_that_cannot_be_read_is_no_damage(source: Path) -> None:
    made, folder = catalogue(source), source.with_name("made")
    repack(made, folder, format="netcdf")
    (source / "a.nc").write_bytes(b"")
    with pytest.raises((OSError, ValueError), match=r"source/a\.nc"):
        verify(folder, source=made)
