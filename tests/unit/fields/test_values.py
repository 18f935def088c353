"""Values of foreign files, as a pack reads them: whole blocks, in canonical order."""

from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from cache_files import MAKES, write_static
from era5_files import field, hours, write_new

from hpc_bnn.fields import values as values_module
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.values import Values, chunk_steps, runs, spans


@pytest.mark.parametrize("make", [make for name, make in MAKES.items() if name != "holes"])
def test_every_layout_gives_its_fields(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    made = catalogue(make(tmp_path))
    channels = range(len(made.channels))
    values = Values(made).read(channels, 0, len(made.times))
    assert values.shape == (len(made.times), *made.shape)
    for position in channels:
        channel = made.channels[position]
        for row, seconds in enumerate(made.times.tolist()):
            if channel.part[row] < 0:
                assert np.isnan(values[row, position]).all()
            else:
                want = field(channel.variable, seconds, channel.level_hpa or 500.0)
                np.testing.assert_allclose(values[row, position], want, atol=0.0101)


@pytest.mark.parametrize("make", MAKES.values())
def test_blocks_do_not_change_values(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = catalogue(make(tmp_path))
    reader = Values(made)
    order = list(range(len(made.channels)))[::-1]
    whole = reader.read(order, 0, len(made.times))
    monkeypatch.setattr(values_module, "BLOCK_BYTES", 1)
    for start in range(0, len(made.times), 3):
        stop = min(start + 3, len(made.times))
        np.testing.assert_array_equal(reader.read(order, start, stop), whole[start:stop])
    reader.close()


def test_packed_values_are_those_of_the_library(tmp_path: Path) -> None:
    for name in ("legacy", "holes"):
        folder = tmp_path / name
        folder.mkdir()
        made = catalogue(MAKES[name](folder))
        values = Values(made).read(range(len(made.channels)), 0, len(made.times))
        for position, channel in enumerate(made.channels):
            for row in range(len(made.times)):
                part = made.parts[int(channel.part[row])]
                with netCDF4.Dataset(part.file.path) as dataset:
                    stored = dataset[part.variable][int(channel.step[row])]
                if channel.level_hpa is not None:
                    stored = stored[channel.level_index[int(channel.part[row])]]
                want = np.ma.filled(stored.astype(np.float64), np.nan).astype(np.float32)
                np.testing.assert_array_equal(values[row, position], want)


def test_static_fields(tmp_path: Path) -> None:
    write_new(tmp_path / "a.nc", hours(2))
    write_static(tmp_path)
    static = Values(catalogue(tmp_path, variables=["t2m"], static=["lsm"])).static()
    want = np.linspace(0, 1, 84, dtype=np.float32).reshape(1, 7, 12)
    want[0, 0, 0] = np.nan
    np.testing.assert_array_equal(static, want)


def test_spans_are_chunks_or_neighbours() -> None:
    def cut(places: list[int], chunk: int, most: int) -> list[list[int]]:
        return [[at for at, _ in span] for span in spans([(p, 0) for p in places], chunk, most)]

    assert cut([0, 1, 2, 7], 1, 100) == [[0, 1, 2], [7]]
    assert cut([7, 0, 2], 4, 100) == [[0, 2], [7]]
    assert cut([0, 3, 4, 9], 4, 100) == [[0, 3, 4], [9]]
    assert cut([0, 1, 2, 3, 4], 1, 2) == [[0, 1], [2, 3], [4]]
    assert cut([3, 4, 5], 4, 1) == [[3], [4, 5]]  # never a part of a chunk


def test_chunk_steps(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("new", "legacy")]
    for folder in folders:
        folder.mkdir()
    assert chunk_steps(catalogue(MAKES["new"](folders[0]))) == 7
    assert chunk_steps(catalogue(MAKES["legacy"](folders[1]))) == 1


def test_damage_names_file_variable_and_time(tmp_path: Path) -> None:
    path = write_new(tmp_path / "a.nc", hours(6), chunks=1)
    made = catalogue(path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"\x78\x01")  # the last compressed chunk
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    where = r"a\.nc: 't2m' cannot be read: .*; the file is damaged: copy or download it again"
    when = r"\(reading t2m at 2017-01-01T00:00 to 2017-01-02T06:00\)"
    with pytest.raises(OSError, match=f"{where}.*{when}"):
        Values(made).read([0], 0, 6)


def test_runs_are_neighbours_whose_targets_follow_each_other() -> None:
    """Every place goes to its target, whatever the order of the channels."""
    for targets in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 2, 0, 3], [5, 6, 9, 8], [4]):
        places = list(enumerate(targets, start=2))
        out = np.full(10, -1)
        for run, positions in runs(places):
            out[positions] = np.arange(run.start, run.stop)
        assert {int(out[target]) for target in targets} == {place for place, _ in places}
        assert all(out[target] == place for place, target in places)
    assert len(runs([(0, 3), (1, 2), (2, 1)])) == 1 and len(runs([(0, 0), (2, 1)])) == 2
