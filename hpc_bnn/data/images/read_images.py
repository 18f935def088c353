"""Read images of a user's own, to be classified: a folder or a file of PNG and JPEG, or arrays in
an npz file.

Shape letters: N images, B batch, C channels, H height, W width.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpc_bnn.data.new_inputs import Asked, NewInputs
from hpc_bnn.data.source import Source

SUFFIXES = (".png", ".jpg", ".jpeg")
KEYS = ("x", "images", "image", "data")  # of the images in an npz file


def image_inputs(source: Source, asked: Asked) -> NewInputs:
    """Offer images as inputs of a classifier, normalised as those of its training.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or no image in it.
    ValueError
        If nothing is named, a file is no image, or is of another size than the network takes.
    """
    assert source.pixels is not None
    path, shape = asked.file, source.input_shape
    if path is None or asked.start:
        what = "--from is for time series" if asked.start else "--input is missing"
        raise ValueError(
            f"{what}: give --input with a folder of images ({', '.join(SUFFIXES)}), one of them, "
            "or an npz file"
        )
    if not path.exists():
        raise FileNotFoundError(f"--input {path}: no such file or folder")
    pixels = source.pixels
    if path.suffix.lower() == ".npz":
        images = _arrays(path, shape)
        names = tuple(f"{path.name}[{n}]" for n in range(len(images)))
        return NewInputs(names, lambda indices: pixels.inputs(images[indices]))
    files = _files(path)
    for file in files if not asked.resize else ():
        _require_size(file, shape)

    def read(indices: Tensor) -> Tensor:
        chosen = [_image(files[i], shape) for i in indices.tolist()]
        return pixels.inputs(torch.stack(chosen))

    folder = path if path.is_dir() else path.parent
    return NewInputs(tuple(file.relative_to(folder).as_posix() for file in files), read)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(
                f"--input {path}: expected a folder, or a file that ends with "
                f"{', '.join(SUFFIXES)} or .npz"
            )
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"--input {path}: no image in it that ends with {SUFFIXES}")
    return files


def _require_size(file: Path, shape: Sequence[int]) -> None:
    """Look at the header of an image alone."""
    from PIL import Image, UnidentifiedImageError  # comes with matplotlib; only images need it

    try:
        with Image.open(file) as image:
            size = image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file}: no image that can be read ({error})") from error
    if size != (shape[2], shape[1]):
        raise ValueError(
            f"{file}: {size[0]} x {size[1]} pixels: the network takes {shape[2]} x {shape[1]}; "
            "resize the images, or give --resize"
        )


def _image(file: Path, shape: Sequence[int]) -> Tensor:
    """Return an image (C, H, W) uint8, of the size that the network takes."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            mode = image.mode
            converted = image.convert("L" if shape[0] == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file}: no image that can be read ({error})") from error
    # Pillow cuts these off at 255 in place of scaling them.
    if mode.startswith(("I", "F")):
        raise ValueError(
            f"{file}: a pixel has more than 8 bits (mode {mode}): expected 0 to 255; convert the "
            "images, or give their values from 0 to 1 in an npz file"
        )
    if converted.size != (shape[2], shape[1]):
        converted = converted.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
    pixels = np.array(converted)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _arrays(path: Path, shape: Sequence[int]) -> Tensor:
    """Return the images (N, C, H, W) of an npz file, uint8 or values from 0 to 1 in float32."""
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            raise ValueError("it is one array in the format npy; write it by numpy.savez")
        with held:
            keys = [key for key in KEYS if key in held] or held.files[: len(held.files) == 1]
            holds = ", ".join(held.files) or "nothing"
            images = held[keys[0]] if keys else None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}: no npz file that can be read ({error})") from error
    if images is None:
        raise ValueError(f"{path}: holds {holds}: expected the images as one of {', '.join(KEYS)}")
    where, given = f"{path}: {keys[0]}", images.shape
    channels, height, width = shape
    if given[1:] == (height, width) and channels == 1:
        images = images[:, None]
    elif given[1:] == (height, width, channels) and given[1:] != tuple(shape):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != tuple(shape) or not len(images):
        raise ValueError(
            f"{where} is of shape {given}: expected some images (N, {channels}, {height}, {width}) "
            f"or (N, {height}, {width}, {channels})"
        )
    if images.dtype.kind not in "buif":
        raise ValueError(
            f"{where} is of type {images.dtype}: expected bytes (uint8), or values from 0 to 1"
        )
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())
        if not 0 <= low <= high <= 1:  # nor NaN
            raise ValueError(
                f"{where} holds {low:g} to {high:g} as {images.dtype}: expected bytes (uint8), or "
                "values from 0 to 1"
            )
        images = images.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(images))
