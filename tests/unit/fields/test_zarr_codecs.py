"""A zarr store whose chunks are pickles is refused before anything is decoded."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from hpc_bnn.fields.ingest.zarr import close, read_headers

pytest.importorskip("zarr")
PICKLE = {"id": "pickle", "protocol": 5}


class _Attack:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self._mark}",)


def _array(store: Path, name: str, values: np.ndarray, **changed: object) -> Path:
    folder = store / name
    folder.mkdir(parents=True)
    shape = list(values.shape)
    metadata = {
        "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": values.dtype.str,
        "compressor": None, "fill_value": None, "order": "C", "filters": None, **changed,
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(metadata))
    (folder / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": [name]}))
    chunk = folder / "0"
    chunk.write_bytes(values.tobytes())
    return chunk


def _store(folder: Path) -> Path:
    store = folder / "store.zarr"
    store.mkdir()
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    _array(store, "latitude", np.linspace(-87.0, 87.0, 32))
    return store


@pytest.mark.parametrize(
    ("dtype", "changed"),
    [
        ("|O", {"filters": [PICKLE]}),
        ("<i8", {"compressor": PICKLE}),
        ("<i8", {"filters": [PICKLE]}),
    ],
    ids=["objects", "compressor", "filter"],
)
def test_a_pickled_coordinate_is_not_run(
    tmp_path: Path, dtype: str, changed: dict[str, object]
) -> None:
    store, mark = _store(tmp_path), tmp_path / "mark"
    content = pickle.dumps([_Attack(mark)])
    chunk = _array(store, "level", np.zeros(1, "<i8"), dtype=dtype, **changed)
    chunk.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"level/\.zarray: names the codec 'pickle'.*nothing of it"
    ):
        read_headers(str(store))
    assert not mark.exists()
    pickle.loads(content)  # the attack is real
    assert mark.exists()


def test_consolidated_and_third_format_metadata_are_looked_at(tmp_path: Path) -> None:
    store = _store(tmp_path)
    held = {"metadata": {"level/.zarray": {"filters": [PICKLE]}}}
    (store / ".zmetadata").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"\.zmetadata: names the codec"):
        read_headers(str(store))
    (store / ".zmetadata").unlink()
    third = {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]}
    (store / "latitude" / "zarr.json").write_text(json.dumps(third))
    with pytest.raises(ValueError, match=r"zarr\.json: names the codec"):
        read_headers(str(store))


def test_a_variable_may_be_called_so(tmp_path: Path) -> None:
    store = _store(tmp_path)
    _array(store, "pickle", np.zeros(3))
    (store / ".zattrs").write_text(json.dumps({"name": "pickle", "id": "pickle"}))
    assert "pickle" in read_headers(str(store))[0].variables
    close(str(store))
