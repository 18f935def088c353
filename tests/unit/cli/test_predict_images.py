"""``hpc-bnn predict`` of images: folders, files and arrays, as the posterior says of them."""

import copy
import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import DIGITS, hpc_bnn, written

import hpc_bnn as hb
from hpc_bnn.data import data_set
from hpc_bnn.train.score.prediction import ClassPrediction

sklearn_datasets = pytest.importorskip("sklearn.datasets")
FEW = 5


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    config = written(folder / "a.yaml", copy.deepcopy(DIGITS))
    assert hpc_bnn("train", config, "--run", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Digits (N, 8, 8) as bytes: 0 to 16 becomes 0 to 240, of which 255 is white."""
    values = sklearn_datasets.load_digits().images[:FEW]
    return np.asarray(values * 15).astype(np.uint8)


def expected(run: Path, images: np.ndarray) -> torch.Tensor:
    """Return log p (K, N, 10), normalised by hand with what the training images say."""
    from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]

    pixels, labels = sklearn_datasets.load_digits(return_X_y=True)
    rest, _, of_rest, _ = train_test_split(
        pixels, labels, test_size=0.2, stratify=labels, random_state=0
    )
    training, *_ = train_test_split(rest, of_rest, test_size=144, stratify=of_rest, random_state=0)
    std = training.std(0)
    std[std == 0] = 1
    x = (images.reshape(-1, 64).astype(float) * 16 / 255 - training.mean(0)) / std
    x = torch.from_numpy(x).float().reshape(-1, 1, 8, 8)
    posterior = hb.load(run).posterior
    return torch.log_softmax(posterior.predict(x, samples=3).double(), -1)


def test_a_folder_an_array_and_a_script_give_the_same(
    run: Path, images: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for n, image in enumerate(images):
        where = tmp_path / "in" / ("deep" if n == 4 else "") / f"{n}.png"
        Image.fromarray(image).save(where)
    (tmp_path / "in" / "notes.txt").write_text("no image", encoding="utf-8")
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(FEW))
    np.savez(tmp_path / "b.npz", images[..., None].astype(np.float32) / 255)
    sources = {"folder": "in", "bytes": "a.npz", "values": "b.npz"}
    for name, given in sources.items():
        command = ("predict", run, "--input", tmp_path / given, "-o", tmp_path / f"{name}.csv")
        assert hpc_bnn(*command) == 0
    log_p = expected(run, images)
    mean = log_p.exp().mean(0)
    entropy = -(mean * mean.log()).sum(1)
    information = entropy + (log_p.exp() * log_p).sum(2).mean(0)
    for name in sources:
        table = rows(tmp_path / f"{name}.csv")
        assert [int(row["class"]) for row in table] == mean.argmax(1).tolist()
        got = [[float(row[f"p_{c}"]) for c in range(10)] for row in table]
        torch.testing.assert_close(torch.tensor(got).double(), mean, rtol=1e-4, atol=1e-6)
        for column, numbers in (("entropy", entropy), ("mutual_information", information)):
            told = [float(row[column]) for row in table]
            assert told == pytest.approx(numbers.tolist(), rel=1e-3, abs=1e-5), (name, column)
    table = rows(tmp_path / "folder.csv")
    assert [row["image"] for row in table] == ["0.png", "1.png", "2.png", "3.png", "deep/4.png"]
    found = hb.load(run).predict(torch.from_numpy(images)[:, None])
    assert isinstance(found, ClassPrediction)
    torch.testing.assert_close(found.probabilities, mean, rtol=1e-5, atol=1e-8)


def test_the_inputs_of_cifar10_are_those_of_its_own_examples() -> None:
    """Bytes become what ``ByteImages`` makes of them, bit for bit."""
    from hpc_bnn.data.images.cifar10 import ByteImages
    from hpc_bnn.data.source import Pixels

    some = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4) * 2
    mean, std = torch.tensor([120.1, 99.7, 3.3]), torch.tensor([60.3, 7.7, 1.0])
    of_set = ByteImages(some, torch.zeros(2), torch.arange(2), mean, std)
    pixels = Pixels(mean[:, None, None], std[:, None, None], 255.0)
    assert torch.equal(pixels.inputs(some), of_set.batch(torch.arange(2))[0])


def test_resize_and_colours(run: Path, images: np.ndarray, tmp_path: Path) -> None:
    large = np.stack([images[0].repeat(3, 0).repeat(3, 1)] * 3, -1)
    Image.fromarray(large).save(tmp_path / "large.jpg", quality=95)
    out = tmp_path / "out.csv"
    command = ("predict", run, "--input", tmp_path / "large.jpg", "-o", out)
    assert hpc_bnn(*command) == 2
    assert hpc_bnn(*command, "--resize") == 0
    assert [row["image"] for row in rows(out)] == ["large.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.npz", {"x": np.zeros((2, 9, 9))}, "is of shape (2, 9, 9): expected some images"),
        ("a.npz", {"x": np.full((2, 8, 8), 3.0)}, "holds 3 to 3 as float64: expected bytes"),
        ("a.npz", {"p": np.zeros(1), "q": np.zeros(1)}, "holds p, q: expected the images as one"),
        ("a.npz", {"x": np.zeros((0, 8, 8))}, "is of shape (0, 8, 8): expected some images"),
        ("a.npz", {"x": np.zeros((2, 8, 8), complex)}, "is of type complex128: expected bytes"),
        ("a.npz", {"x": np.array([{}])}, "a.npz: no npz file that can be read (Object arrays"),
        ("a.npz", b"no archive", "a.npz: no npz file that can be read ("),
        (
            "a.npz",
            b"PK\x03\x04 cut short",
            "a.npz: no npz file that can be read (File is not a zip",
        ),
        ("a.npz", npy(np.zeros((2, 8, 8))), "no npz file that can be read (it is one array"),
        ("a.png", b"no image", "no image that can be read"),
        ("a.png", png(np.full((8, 8), 40000, np.uint16)), "a.png: a pixel has more than 8 bits"),
        ("a.gif", b"GIF", "that ends with .png, .jpg, .jpeg or .npz"),
        ("none", None, "no such file or folder"),
        ("", None, "--input is missing: give --input with a folder"),
    ],
)
def test_what_is_no_image_is_refused(
    run: Path,
    tmp_path: Path,
    name: str,
    content: object,
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    given = ("--input", path) if name else ()
    assert hpc_bnn("predict", run, *given, "-o", tmp_path / "out.csv") == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_an_option_for_series_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert hpc_bnn("predict", run, "--calibrated", "--input", tmp_path, "-o", out) == 2
    assert "--calibrated is for series: digits is none" in capsys.readouterr().err


def test_every_data_set_of_images_can_be_asked() -> None:
    import importlib

    for name in ("digits", "cifar10"):
        assert hasattr(importlib.import_module(data_set(name).__module__), f"{name}_new_inputs")
