"""Read the six batches of CIFAR-10 from the files that its author publishes, and prove they are.

    cifar-10-binary.tar.gz   cifar-10-batches-bin/data_batch_1.bin ... 5, test_batch.bin
    cifar-10-python.tar.gz   cifar-10-batches-py/data_batch_1 ... 5, test_batch

A binary batch is 10 000 records of one label byte and 3 x 32 x 32 pixel bytes; a python batch is a
pickled dict of ``data``, uint8 (10 000, 3072), and ``labels``, read by ``plain_pickle``. Archives
are read in place: nothing is unpacked to disk.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from hpc_bnn.data.images.plain_pickle import read_plain_pickle

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CLASSES = 10
IMAGE_SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
RECORD = 1 + PIXELS
RECORDS = 10_000  # of an official batch
LARGEST_BATCH = 64 * 2**20  # bytes; official ones have 31 million
TRAINING = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"

# MD5 of the archives as the page gives them, of the python batches as torchvision lists them. There
# are no published ones of the unpacked binary batches: their sizes and classes are counted.
MD5 = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


@dataclass(frozen=True)
class _Form:
    """One of the two forms of the data set."""

    archive: str
    folder: str
    suffix: str

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{batch}{self.suffix}" for batch in (*TRAINING, TEST))


BINARY = _Form("cifar-10-binary.tar.gz", "cifar-10-batches-bin", ".bin")
PYTHON = _Form("cifar-10-python.tar.gz", "cifar-10-batches-py", "")


@dataclass(frozen=True, eq=False)
class Part:
    """Hold images (N, 3, 32, 32) uint8 and their classes (N,) int64."""

    images: Tensor
    labels: Tensor


def read_cifar10(path: Path, *, verify: bool) -> tuple[Part, Part]:
    """Read the training images, in the order of the batches, and the test images.

    ``path`` is an archive, the folder of its batches, or a folder that holds either.

    Raises
    ------
    FileNotFoundError
        If there is no CIFAR-10, or batches are missing; says where to get it and where to put it.
    ValueError
        If a file is damaged or, with ``verify``, not the official one.
    """
    form, place = _locate(path)
    parts: dict[str, Part] = {}
    for name, origin, content in _contents(form, place, verify):
        read = _binary_batch if form is BINARY else _python_batch
        parts[name] = read(content, origin, exact=verify)
    training = [parts[name] for name in form.names[:-1]]
    train = Part(
        torch.cat([part.images for part in training]), torch.cat([part.labels for part in training])
    )
    test = parts[form.names[-1]]
    if verify:
        for what, part in (("training", train), ("test", test)):
            _require_equal_classes(f"{place}: {what} batches", part.labels)
    return train, test


def _locate(path: Path) -> tuple[_Form, Path]:
    """Return the form and the archive or folder of batches that a path stands for."""
    advice = (
        f"get {BINARY.archive} from {PAGE} (nothing is downloaded here) and set data.path to it, "
        "or to the folder it lies or was unpacked in; the images that come with scikit-learn: "
        "data='{name: digits}' model.patch=2"
    )
    if path.is_file():
        for form in (BINARY, PYTHON):
            if path.name == form.archive:
                return form, path
        raise ValueError(
            f"{path}: expected an archive called {BINARY.archive} or {PYTHON.archive}, or a folder"
        )
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; {advice}")
    incomplete = []
    for folder in (path, path / BINARY.folder, path / PYTHON.folder):
        for form in (BINARY, PYTHON):
            missing = [name for name in form.names if not (folder / name).is_file()]
            if not missing:
                return form, folder
            if len(missing) < len(form.names):
                incomplete.append(f"{folder}: no {', '.join(missing)}")
    for form in (BINARY, PYTHON):
        if (path / form.archive).is_file():
            return form, path / form.archive
    raise FileNotFoundError(f"{'; '.join(incomplete) or f'{path}: holds no CIFAR-10'}; {advice}")


def _contents(form: _Form, place: Path, verify: bool) -> Iterator[tuple[str, str, bytes]]:
    """Yield name, origin for messages, and bytes of each batch."""
    if place.is_file():
        if verify:
            _require_official(place)
        yield from _members(form, place)
        return
    for name in form.names:
        path = place / name
        _require_size(str(path), path.stat().st_size)
        if verify and name in MD5:
            _require_official(path)
        yield name, str(path), path.read_bytes()


def _members(form: _Form, archive: Path) -> Iterator[tuple[str, str, bytes]]:
    """Read the batches of an archive; whatever else it holds is left alone."""
    names = {f"{form.folder}/{name}": name for name in form.names}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = str(PurePosixPath(member.name))
                if path not in names or not member.isfile():
                    continue
                name = names.pop(path)
                origin = f"{archive}: {member.name}"
                _require_size(origin, member.size)
                file = tar.extractfile(member)
                assert file is not None
                with file:
                    yield name, origin, file.read()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{archive}: cannot be read as a tar.gz archive ({error}); "
            f"a download that was cut off looks like this; get it again from {PAGE}"
        ) from error
    if names:
        raise ValueError(
            f"{archive}: holds no {', '.join(names)}; get the official archive from {PAGE}"
        )


def _binary_batch(content: bytes, origin: str, *, exact: bool) -> Part:
    count, rest = divmod(len(content), RECORD)
    if rest or not count or (exact and count != RECORDS):
        expected = f"{RECORDS * RECORD} bytes, {RECORDS} of them" if exact else "a multiple of it"
        raise ValueError(
            f"{origin}: {len(content)} bytes are no batch: a record has {RECORD} bytes; expected "
            f"{expected}; get the file again from {PAGE}"
        )
    records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(count, RECORD)
    return _part(records[:, 1:], records[:, 0].long(), origin)


def _python_batch(content: bytes, origin: str, *, exact: bool) -> Part:
    batch = read_plain_pickle(content, origin)
    if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
        keys = f"a dict of {', '.join(batch)}" if isinstance(batch, dict) else type(batch).__name__
        raise ValueError(f"{origin}: holds {keys}; expected a dict with data and labels")
    data, labels = batch["data"], batch["labels"]
    if not isinstance(data, Tensor) or data.dim() != 2 or data.shape[1] != PIXELS or not len(data):
        shape = tuple(data.shape) if isinstance(data, Tensor) else type(data).__name__
        raise ValueError(f"{origin}: data: {shape}; expected uint8 (N, {PIXELS})")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"{origin}: labels: expected a list of classes, 0 to {CLASSES - 1}")
    if len(labels) != len(data) or (exact and len(data) != RECORDS):
        expected = f"{RECORDS} of both" if exact else "equally many"
        raise ValueError(
            f"{origin}: {len(data)} images and {len(labels)} labels; expected {expected}"
        )
    # An int of a pickle may be of any size.
    return _part(data, torch.tensor([max(-1, min(label, 255)) for label in labels]), origin)


def _part(pixels: Tensor, labels: Tensor, origin: str) -> Part:
    outside = ((labels < 0) | (labels >= CLASSES)).nonzero().flatten()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"{origin}: image {first} has class {int(labels[first])}; expected 0 to {CLASSES - 1}"
        )
    return Part(pixels.reshape(-1, *IMAGE_SHAPE), labels)


def _require_official(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != MD5[path.name]:
        raise ValueError(
            f"{path}: MD5 {digest} of {path.stat().st_size} bytes, expected {MD5[path.name]} of "
            f"the official file; get it again from {PAGE}, or set data.verify=false for files of "
            "your own"
        )


def _require_size(origin: str, size: int) -> None:
    if size > LARGEST_BATCH:
        raise ValueError(f"{origin}: {size} bytes; expected a batch of at most {LARGEST_BATCH}")


def _require_equal_classes(origin: str, labels: Tensor) -> None:
    """Refuse batches that the official ones, equally many images of each class, cannot be."""
    counts = torch.bincount(labels, minlength=CLASSES)
    if int(counts.min()) != int(counts.max()):
        raise ValueError(
            f"{origin}: the classes have {', '.join(map(str, counts.tolist()))} images; the "
            "official ones have equally many each; unpack the archive again, or set "
            "data.verify=false for files of your own"
        )
