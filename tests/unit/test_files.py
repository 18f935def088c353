"""An output replaces an earlier output of its kind, and nothing else; it is whole or absent."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hpc_bnn.files import bytes_read, count_read, refuse_foreign, whole_file, write_whole

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


@pytest.mark.parametrize("rivals", [True, False])
def test_a_file_that_cannot_be_finished_leaves_what_was_there(tmp_path: Path, rivals: bool) -> None:
    """Whatever goes wrong, and where: while it is written, before it gets its name."""
    path = tmp_path / "a"
    write_whole(path, b"before")

    def fail() -> None:
        assert len(list(tmp_path.iterdir())) == 2  # the new content is on the disk, without a name
        raise KeyError("taken over")

    with pytest.raises(KeyError), whole_file(path, rivals=rivals) as file:
        file.write(b"half")
        raise KeyError
    with pytest.raises(KeyError, match="taken over"), whole_file(path, rivals=rivals, check=fail):
        pass
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"before"}


def test_a_full_disk_is_told_with_the_space_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a", b"before")
    monkeypatch.setattr("hpc_bnn.files.os.fsync", full)
    with pytest.raises(OSError, match=r"a: cannot be written: No space left .* MB are free there"):
        write_whole(tmp_path / "a", b"after")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"before"}


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_two_processes_may_write_one_file_at_once(tmp_path: Path) -> None:
    """The one that ends last has it, whole."""
    path = tmp_path / "a"
    with whole_file(path, rivals=True) as file:
        file.write(b"first, ")
        child = os.fork()
        if not child:
            with whole_file(path, rivals=True) as other:
                other.write(b"of the other")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert path.read_bytes() == b"of the other"
        file.write(b"last")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a": b"first, last"}


def test_each_thread_counts_its_own() -> None:
    found: list[int] = []

    def read() -> None:
        before = bytes_read()
        count_read(5)
        count_read(7)
        found.extend([before, bytes_read()])

    here = bytes_read()
    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert found == [0, 12]
    assert bytes_read() == here
    count_read(3)
    assert bytes_read() == here + 3
