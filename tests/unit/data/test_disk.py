"""An output replaces an earlier output of its kind, and nothing else."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_bnn.data.disk import refuse_foreign, write_whole

OWN = b"made by us"


def refuse(path: Path, *sources: Path) -> None:
    refuse_foreign(path, "output", lambda one: one.read_bytes() == OWN, sources=sources)


def test_what_is_not_there_or_an_earlier_output_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(tmp_path / "new")
    (tmp_path / "old").write_bytes(OWN)
    refuse(tmp_path / "old")
    (tmp_path / "link").symlink_to("old")
    refuse(tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    refuse(Path("new"))
    refuse(Path("old"))


def foreign(folder: Path) -> Path:
    (folder / "a").write_bytes(b"of somebody")
    return folder / "a"


def empty(folder: Path) -> Path:
    (folder / "a").touch()
    return folder / "a"


def a_folder(folder: Path) -> Path:
    return folder


def link_to_nothing(folder: Path) -> Path:
    (folder / "a").symlink_to("nothing")
    return folder / "a"


def link_to_foreign(folder: Path) -> Path:
    (folder / "b").symlink_to(foreign(folder).name)
    return folder / "b"


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a")
    return folder / "a"


def a_device(folder: Path) -> Path:
    return Path("/dev/null")


def no_parent(folder: Path) -> Path:
    return folder / "none" / "a"


def parent_is_a_file(folder: Path) -> Path:
    return foreign(folder) / "a"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (foreign, "is there already and is no output of hpc-bnn: it is not overwritten"),
        (empty, "is there already and is no output"),
        (a_folder, "is a folder: expected the path of a file"),
        (link_to_nothing, "a link to nothing, which is not there: remove the link"),
        (link_to_foreign, "is there already and is no output"),
        (a_pipe, "is there already and is no output"),
        (a_device, "is there already and is no output"),
        (no_parent, "none does not exist: make it first"),
        (parent_is_a_file, "a is no folder: make it first"),
    ],
)
def test_everything_else_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    path = make(tmp_path)
    with pytest.raises(OSError, match=rf"^{path}: .*{said}"):
        refuse(path)


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_source_is_never_replaced_whatever_made_it(
    tmp_path: Path, link: Callable[[Path, Path], None] | None
) -> None:
    source = path = tmp_path / "source"
    source.write_bytes(OWN)
    if link is not None:
        path = tmp_path / "link"
        link(source, path)
    with pytest.raises(FileExistsError, match=rf"^{path}: is {source}, a file of the source"):
        refuse(path, tmp_path / "gone", source)


def test_a_file_beside_an_output_stays(tmp_path: Path) -> None:
    (tmp_path / "a.new").write_bytes(b"of somebody")
    write_whole(tmp_path / "a", b"1")
    assert (tmp_path / "a.new").read_bytes() == b"of somebody"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.new"]
