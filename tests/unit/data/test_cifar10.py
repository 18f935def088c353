"""CIFAR-10 in both published forms, written here record by record, and damaged in every way."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpc_bnn.data.images import cifar10_files
from hpc_bnn.data.images.cifar10 import ByteImages, channel_scale, cifar10
from hpc_bnn.data.source import Source

COUNT = 20  # images of a batch, 10 000 in the official ones
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
FOLDERS = {"binary": "cifar-10-batches-bin", "python": "cifar-10-batches-py"}


def pixels(batch: int) -> bytes:
    generator = torch.Generator().manual_seed(batch)
    values = torch.randint(256, (COUNT * 3072,), generator=generator, dtype=torch.uint8)
    return values.numpy().tobytes()


def labels(batch: int) -> list[int]:
    """Return classes that are balanced over a batch, in an order of its own."""
    return [(7 * i + batch) % 10 for i in range(COUNT)]


def binary_batch(batch: int) -> bytes:
    images = pixels(batch)
    return b"".join(
        bytes([label]) + images[3072 * i : 3072 * (i + 1)] for i, label in enumerate(labels(batch))
    )


def python2_batch(batch: int, *, count: int = COUNT) -> bytes:
    """Write the pickle as the official files hold it, by Python 2 with protocol 2."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    numbers = b"".join(b"K" + bytes([label]) for label in labels(batch))
    data = pixels(batch)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
        + (b"(K\x01M" + struct.pack("<H", count) + b"M" + struct.pack("<H", 3072) + b"\x86")
        + (b"cnumpy\ndtype\nq\x08" + text("u1") + b"K\x00K\x01\x87Rq\x09")
        + (b"(K\x03" + text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
        + (b"\x89T" + struct.pack("<i", len(data)) + data + b"tb")
    )
    names = b"".join(text(f"image_{i}.png") for i in range(COUNT))
    return (
        (b"\x80\x02}q\x01(" + text("batch_label") + b"q\x02" + text(f"training batch {batch} of 5"))
        + (text("labels") + b"]q\x03(" + numbers + b"e")
        + (text("data") + array)
        + (text("filenames") + b"]q\x04(" + names + b"eu.")
    )


def python3_batch(batch: int, **changed: Any) -> bytes:
    data = np.frombuffer(pixels(batch), dtype=np.uint8).reshape(COUNT, 3072)
    content = {b"labels": labels(batch), b"data": data, b"filenames": ["name.png"] * COUNT}
    content.update({key.encode(): value for key, value in changed.items()})
    return pickle.dumps(content, protocol=2)


def batches(form: str) -> dict[str, bytes]:
    make = binary_batch if form == "binary" else python2_batch
    return {f"{n}{'.bin' * (form == 'binary')}": make(b) for b, n in enumerate(NAMES, start=1)}


def unpacked(where: Path, form: str, **changed: bytes | None) -> Path:
    """Write the folder of a form, with some of its batches changed or left out."""
    folder = where / FOLDERS[form]
    folder.mkdir()
    for name, content in batches(form).items():
        batch = name.removesuffix(".bin")
        new = changed.get(batch, content)
        if new is not None:
            (folder / name).write_bytes(new)
    return folder


def packed(where: Path, form: str, **changed: bytes | None) -> Path:
    """Write the archive of a form, with the other files that the official ones hold."""
    path = where / f"cifar-10-{form}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {"readme.html": b"<html>", **batches(form)}.items():
            new = changed.get(name.removesuffix(".bin"), content)
            if new is not None:
                add(tar, f"{FOLDERS[form]}/{name}", new)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def read(path: Path, **options: Any) -> Source:
    return cifar10(path, **{"validation": 30, "verify": False, **options})


def everything(part: object) -> tuple[Tensor, Tensor]:
    assert isinstance(part, ByteImages)
    return part.batch(torch.arange(len(part)))


def same(one: Source, other: Source) -> bool:
    for name in ("train", "validation", "test"):
        (x, y), (others_x, others_y) = (
            everything(getattr(one, name)),
            everything(getattr(other, name)),
        )
        if not (torch.equal(x, others_x) and torch.equal(y, others_y)):
            return False
    return True


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    return unpacked(tmp_path, "binary")


def test_bytes_come_out_where_they_lie_in_the_record(binary: Path) -> None:
    """Image i of test batch: channel, row, column at byte 1 + 1024 c + 32 h + w of record i."""
    source = read(binary)
    x, y = everything(source.test)
    assert isinstance(source.test, ByteImages)
    content = binary_batch(6)
    for i, c, h, w in [(0, 0, 0, 0), (3, 1, 2, 5), (19, 2, 31, 31)]:
        record = content[3073 * i : 3073 * (i + 1)]
        byte = record[1 + 1024 * c + 32 * h + w]
        mean, std = source.test.mean[c], source.test.std[c]
        assert x[i, c, h, w] == (torch.tensor(float(byte)) - mean) / std
        assert y[i] == record[0]
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert source.test.images.dtype == torch.uint8


@pytest.mark.parametrize("form", ["binary", "python"])
def test_folders_and_archives_of_both_forms_hold_the_same(
    form: str, binary: Path, tmp_path: Path
) -> None:
    where = tmp_path / "other"
    where.mkdir()
    archive, expected = packed(where, form), read(binary)
    assert same(read(archive), expected)
    assert same(read(where), expected)
    folder = unpacked(where, form)
    archive.unlink()
    assert same(read(folder), expected)
    assert same(read(where), expected)


def test_batches_written_by_python_3(binary: Path, tmp_path: Path) -> None:
    where = tmp_path / "other"
    where.mkdir()
    changed = {name: python3_batch(b) for b, name in enumerate(NAMES, start=1)}
    assert same(read(unpacked(where, "python", **changed)), read(binary))


def test_an_archive_is_read_in_place(tmp_path: Path) -> None:
    packed(tmp_path, "binary")
    read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"]


def test_sizes_and_facts(binary: Path) -> None:
    source = read(binary)
    assert [len(p) for p in (source.train, source.validation, source.test)] == [70, 30, 20]
    assert source.task == "classification"
    assert source.input_shape == (3, 32, 32)
    assert source.output_shape == (10,)
    assert source.scale is None
    x, y = source.train.batch(torch.tensor([4, 0, 4]))
    assert x.shape == (3, 3, 32, 32)
    assert torch.equal(x[0], x[2])
    assert y[0] == y[2]


def test_training_and_validation_part_the_training_images(binary: Path) -> None:
    source = read(binary)
    assert isinstance(source.train, ByteImages)
    assert isinstance(source.validation, ByteImages)
    rows = torch.cat([source.train.rows, source.validation.rows])
    assert sorted(rows.tolist()) == list(range(100))
    assert source.validation.rows.tolist() != list(range(70, 100))  # random ones
    again, other = read(binary), read(binary, split_seed=1)
    assert isinstance(again.validation, ByteImages)
    assert isinstance(other.validation, ByteImages)
    assert torch.equal(again.validation.rows, source.validation.rows)
    assert not torch.equal(other.validation.rows, source.validation.rows)


def test_the_training_part_alone_is_normalised(binary: Path) -> None:
    x = everything(read(binary).train)[0].double()
    assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert (x.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_channel_scale_equals_direct_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1500, 3, 4, 4), generator=generator, dtype=torch.uint8)
    images[:, 2] = 9
    rows = torch.arange(1400)
    mean, std = channel_scale(images, rows)
    expected = images[:1400].double()
    torch.testing.assert_close(mean, expected.mean((0, 2, 3)), rtol=1e-13, atol=0)
    direct = expected.std((0, 2, 3), correction=0)
    torch.testing.assert_close(std[:2], direct[:2], rtol=1e-13, atol=0)
    assert std[2] == 1.0


def test_channel_scale_of_many_bright_images_does_not_overflow() -> None:
    images = torch.tensor([255, 253], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 1, 16, 16)
    mean, std = channel_scale(images, torch.arange(2).repeat(1000))
    assert mean.item() == 254.0
    assert std.item() == 1.0


@pytest.mark.parametrize("validation", [0, -1, 100, 5000])
def test_validation_out_of_range(binary: Path, validation: int) -> None:
    with pytest.raises(ValueError, match=f"validation = {validation}: expected 1 to 99 of the 100"):
        read(binary, validation=validation)


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make the small files of this test the official ones, and return a folder for them."""
    monkeypatch.setattr(cifar10_files, "RECORDS", COUNT)
    for name, content in batches("python").items():
        monkeypatch.setitem(cifar10_files.MD5, name, hashlib.md5(content).hexdigest())
    return tmp_path


def test_official_files_pass(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read(unpacked(official, "python"))
    assert same(read(official, verify=True), expected)
    for form in ("binary", "python"):
        archive = packed(official, form)
        digest = hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setitem(cifar10_files.MD5, archive.name, digest)
        assert same(read(archive, verify=True), expected)
    assert same(read(unpacked(official, "binary"), verify=True), expected)


def test_wrong_checksum_of_an_archive(tmp_path: Path) -> None:
    archive = packed(tmp_path, "binary")
    told = (
        rf"cifar-10-binary\.tar\.gz: MD5 \w{{32}} of {archive.stat().st_size} bytes, expected "
        "c32a1d4ab5d03f1284b67883e8d87530 of the official file; get it again"
    )
    with pytest.raises(ValueError, match=told):
        cifar10(archive)


def test_wrong_checksum_of_a_batch(official: Path) -> None:
    content = bytearray(python2_batch(3))
    content[content.index(pixels(3))] ^= 1
    folder = unpacked(official, "python", data_batch_3=bytes(content))
    with pytest.raises(ValueError, match=r"data_batch_3: MD5 \w+ of .*data\.verify=false"):
        read(folder, verify=True)
    read(folder)


def test_wrong_classes_of_unpacked_binary_batches(official: Path) -> None:
    content = bytearray(binary_batch(2))
    content[0] = (content[0] + 1) % 10
    folder = unpacked(official, "binary", data_batch_2=bytes(content))
    with pytest.raises(ValueError, match=r"training batches: the classes have .* equally many"):
        read(folder, verify=True)
    read(folder)


@pytest.mark.parametrize("form", ["binary", "python"])
def test_fewer_images_than_the_official_ones(form: str, tmp_path: Path, monkeypatch: Any) -> None:
    for name, content in batches("python").items():
        monkeypatch.setitem(cifar10_files.MD5, name, hashlib.md5(content).hexdigest())
    with pytest.raises(ValueError, match=r"data_batch_1.*expected .*10000 of"):
        read(unpacked(tmp_path, form), verify=True)


@pytest.mark.parametrize("lost", [1, 3072, 3073 * COUNT])
def test_a_binary_batch_that_was_cut_off(lost: int, tmp_path: Path) -> None:
    content = binary_batch(4)[:-lost]
    folder = unpacked(tmp_path, "binary", data_batch_4=content)
    told = rf"data_batch_4\.bin: {len(content)} bytes are no batch: a record has 3073 bytes"
    with pytest.raises(ValueError, match=told):
        read(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9999])
def test_an_archive_that_was_cut_off(share: float, tmp_path: Path) -> None:
    archive = packed(tmp_path, "binary")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"binary\.tar\.gz: (cannot be read|holds no)"):
        read(archive)


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.gz"
    for content in (b"<html>not found</html>", gzip.compress(b"hello" * 500)):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a tar"):
            read(archive)


def test_an_archive_without_a_batch(tmp_path: Path) -> None:
    archive = packed(tmp_path, "binary", data_batch_2=None)
    with pytest.raises(ValueError, match=r"holds no cifar-10-batches-bin/data_batch_2\.bin; get"):
        read(archive)


def test_members_that_point_elsewhere_are_left_alone(tmp_path: Path) -> None:
    """Neither paths out of the archive nor links are followed."""
    secret = tmp_path / "secret"
    secret.write_bytes(binary_batch(1))
    where = tmp_path / "data"
    where.mkdir()
    path = where / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "../escaped", b"x")
        add(tar, "/tmp/cifar-10-batches-bin/data_batch_1.bin", b"x")
        add(tar, "cifar-10-batches-bin/../../escaped", b"x")
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
        for name, content in list(batches("binary").items())[1:]:
            add(tar, f"cifar-10-batches-bin/{name}", content)
    with pytest.raises(ValueError, match=r"holds no cifar-10-batches-bin/data_batch_1\.bin; get"):
        read(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "cifar-10-binary.tar.gz",
        "data",
        "secret",
    ]


def test_batches_far_too_large_are_not_read(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, "binary")
    os.truncate(folder / "data_batch_1.bin", 2**40)  # holes: takes no room on the disk
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: 1099511627776 bytes; expected"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (python3_batch(1, labels=labels(1)[:-1]), "20 images and 19 labels; expected equally many"),
        (python3_batch(1, labels=[0] * 19 + [10]), "image 19 has class 10; expected 0 to 9"),
        (python3_batch(1, labels=[-1] * 20), "image 0 has class -1"),
        (python3_batch(1, labels=[2**80] * 20), "image 0 has class 255"),
        (python3_batch(1, labels=["cat"] * 20), "labels: expected a list of classes"),
        (python3_batch(1, labels="x" * 20), "labels: expected a list of classes"),
        (python3_batch(1, data=[1, 2]), r"data: list; expected uint8 \(N, 3072\)"),
        (python3_batch(1, data=np.zeros((20, 9), np.uint8)), r"data: \(20, 9\); expected uint8"),
        (python3_batch(1, data=np.zeros((20, 3072))), "refused"),
        (python2_batch(1, count=COUNT + 1), "not a readable pickle"),
        (pickle.dumps({"fine_labels": 1}, protocol=2), "holds a dict of fine_labels; expected"),
        (pickle.dumps([1], protocol=2), "holds list; expected a dict with data and labels"),
    ],
)
def test_a_python_batch_of_wrong_content(content: bytes, told: str, tmp_path: Path) -> None:
    folder = unpacked(tmp_path, "python", data_batch_1=content)
    with pytest.raises(ValueError, match=rf"data_batch_1: .*{told}"):
        read(folder)


def test_a_binary_batch_of_wrong_classes(tmp_path: Path) -> None:
    content = bytearray(binary_batch(5))
    content[3073 * 7] = 77
    folder = unpacked(tmp_path, "binary", data_batch_5=bytes(content))
    with pytest.raises(ValueError, match=r"data_batch_5\.bin: image 7 has class 77; expected 0 to"):
        read(folder)


def test_says_where_to_get_it_and_where_to_put_it(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError) as caught:
            cifar10(path)
        told = str(caught.value)
        assert told.startswith(f"{path}: ")
        assert "get cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html" in told
        assert "set data.path to it" in told
        assert "data='{name: digits}' model.patch=2" in told


def test_names_the_batches_that_are_missing(tmp_path: Path) -> None:
    folder = unpacked(tmp_path, "python", data_batch_2=None, test_batch=None)
    for path in (folder, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{folder}: no data_batch_2, test_batch; get"):
            cifar10(path)


def test_a_file_of_another_name(tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-python.tar.gz"
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"expected an archive called cifar-10-binary\.tar\.gz or"):
        cifar10(path)
