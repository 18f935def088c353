"""A repacked folder whose source changed is refused, or used with a warning that says what changed;
of both formats.
"""

import logging
from pathlib import Path

import pytest
from cache_files import everything, same
from era5_files import START, hours, write_new
from hpc_bnn.fields.cache.repack import repack

from hpc_bnn.cli.arguments import parse
from hpc_bnn.config import check_options
from hpc_bnn.data import data_set
from hpc_bnn.fields.assemble import catalogue
from hpc_bnn.fields.era5 import era5
from hpc_bnn.fields.report import defects

FORMATS = ["cache", "netcdf"]


@pytest.fixture(params=FORMATS)
def repacked(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    for at in range(8):
        write_new(tmp_path / "source" / f"{at}.nc", hours(4, start=START + at * 86400))
    repack(catalogue(tmp_path / "source"), tmp_path / "made", format=request.param)
    return tmp_path / "made"


def test_it_is_used_with_a_warning_that_names_what_changed(
    repacked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    want, source = everything(catalogue(repacked)), repacked.with_name("source")
    assert "stale" not in caplog.text
    with (source / "2.nc").open("ab") as file:
        file.write(b"more")
    (source / "3.nc").unlink()
    write_new(source / "9.nc", hours(4, start=START + 9 * 86400))
    words = [r"2\.nc has \d+ bytes, it had \d+", r"3\.nc is gone", r"9\.nc was added"]
    with pytest.raises(ValueError, match=f"stale.*{'.*'.join(words)}.*data.stale=allow"):
        catalogue(repacked)
    with pytest.raises(ValueError, match="stale = 'perhaps': expected 'error' or 'allow'"):
        catalogue(repacked, stale="perhaps")  # type: ignore[arg-type]
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        used = catalogue(repacked, stale="allow")
    (told,) = [record.getMessage() for record in caplog.records]
    for name in ("2.nc has", "3.nc is gone", "9.nc was added", "used as it is"):
        assert name in told
    assert same(everything(used), want)
    assert not used.problems and any("9.nc was added" in defect for defect in defects(used))


def test_many_changes_are_counted(repacked: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in list(repacked.with_name("source").iterdir())[:7]:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        catalogue(repacked, stale="allow")
    assert caplog.text.count("is gone") == 5 and "and 2 more" in caplog.text


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("pattern", ["", "*.nc"], ids=["folder", "pattern"])
def test_other_files_in_place_of_all_are_a_change(
    tmp_path: Path, format: str, pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Downloaded again in files of months: no name is the same."""
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    for at in range(8):
        write_new(source / f"{at}.nc", hours(4, start=START + at * 86400))
    repack(catalogue(source / pattern), made, format=format)
    for path in source.iterdir():
        path.unlink()
    for month in ("2017-01", "2017-02"):
        write_new(source / f"{month}.nc", hours(40))
    words = (
        r"all 8 files it was made of are gone \(.*0\.nc to .*7\.nc\); "
        r".*2017-01\.nc was added; .*2017-02\.nc was added"
    )
    with pytest.raises(ValueError, match=f"stale.*{words}.*data.stale=allow"):
        catalogue(made)
    with caplog.at_level(logging.INFO):
        assert len(catalogue(made, stale="allow").times) == 32
    assert "is stale" in caplog.text and "without comparing" not in caplog.text


def test_a_source_that_is_not_here_is_no_change(repacked: Path) -> None:
    """Its folder has no file, or is gone itself."""
    source = repacked.with_name("source")
    for path in source.iterdir():
        path.unlink()
    (source / "readme.txt").write_text("moved to tape")
    for _ in range(2):
        made = catalogue(repacked)
        assert any("are not here" in notice for notice in made.notices) and not made.problems
        (source / "readme.txt").unlink(missing_ok=True)
        if source.exists():
            source.rmdir()


def test_damage_is_refused_all_the_same(repacked: Path) -> None:
    (repacked.with_name("source") / "2.nc").unlink()
    path = next(iter([*repacked.glob("fields.npy"), *repacked.glob("*.nc")]))
    path.unlink()
    with pytest.raises(ValueError, match=r"cut off or copied in part|is gone; copy it again"):
        catalogue(repacked, stale="allow")


def test_the_data_set_takes_the_option(repacked: Path, caplog: pytest.LogCaptureFixture) -> None:
    (repacked.with_name("source") / "2.nc").unlink()
    options = {
        "path": str(repacked),
        "variables": ["t2m"],
        "step_hours": 6,
        "train": ["2017-01-01", "2017-01-04"],
        "validation": ["2017-01-05", "2017-01-06"],
        "test": ["2017-01-07", "2017-01-08"],
    }
    with pytest.raises(ValueError, match="this cache is stale"):
        era5(**options)  # type: ignore[arg-type]
    assert len(era5(**options, stale="allow").train) == 15  # type: ignore[arg-type]
    assert "2.nc is gone" in caplog.text
    assert check_options("data", data_set("era5"), options | {"stale": "allow"}) == []
    (wrong,) = check_options("data", data_set("era5"), options | {"stale": "yes"})
    assert "data.stale = 'yes'" in wrong and "'allow'" in wrong


def test_the_commands_take_the_option() -> None:
    for command in (
        ["data", "check", "x"],
        ["data", "statistics", "x", "--start=1", "--end=2", "--step-hours=6", "-o", "y"],
    ):
        assert parse(command).stale == "error"
        assert parse([*command, "--stale", "allow"]).stale == "allow"
