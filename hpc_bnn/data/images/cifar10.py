"""CIFAR-10: 60 000 colour images of 32 x 32 pixels in 10 classes, from files already on disk.

Images stay bytes in memory; a batch becomes float32 when it is read:

    x = (byte - mean[channel]) / std[channel]

Shape letters: N examples, B batch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.bayes.noise import COUNTER_LIMIT, Purpose, Stream, permutation
from hpc_bnn.data.facts import pixels_of
from hpc_bnn.data.images.cifar10_files import CLASSES, IMAGE_SHAPE, read_cifar10
from hpc_bnn.data.images.read_images import image_inputs
from hpc_bnn.data.new_inputs import Asked, NewInputs
from hpc_bnn.data.source import Pixels, Source

NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


@dataclass(frozen=True, eq=False)
class ByteImages:
    """Offer some rows of images kept as bytes as normalised examples.

    images: (M, C, H, W) uint8. labels: (M,) int64. rows: (N,) int64, the examples among the M.
    mean, std: (C,) float32, in units of a byte.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.rows)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Convert the examples at `indices` (B,) int64 to x (B, C, H, W) float32, y (B,) int64."""
        rows = self.rows[indices]
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return (self.images[rows].float() - mean) / std, self.labels[rows]


def cifar10(
    path: str | Path,
    *,
    validation: int = 5000,
    verify: bool = True,
    split_seed: int = 0,
    kept: Mapping[str, Any] | None = None,
) -> Source:
    """Load CIFAR-10 as x (N, 3, 32, 32) float32, normalised per channel, and y (N,) int64.

    The official 10 000 test images are the test part. The last `validation` of the 50 000 training
    images, in a random order keyed by `split_seed`, are the validation part; the others are the
    training part, whose mean and standard deviation of each channel normalise all three.

    Parameters
    ----------
    path
        An official archive, its unpacked folder, or the folder that holds one.
    validation
        Images taken out of the training images.
    verify
        Check that the files are the official ones; false: any files of the same form.
    split_seed
        Key of the order that says which images are taken out.
    kept
        What a trained run keeps of its images, where it is to see others: these are normalised by
        the same.

    Raises
    ------
    FileNotFoundError
        If the files are not there; says where to get and where to put them.
    ValueError
        If a file is damaged or not the official one, or `validation` is out of range.
    """
    train, test = read_cifar10(Path(path), verify=verify)
    count = len(train.labels)
    if not 1 <= validation < count:
        raise ValueError(
            f"cifar10: validation = {validation}: expected 1 to {count - 1} of the {count} "
            "training images; 5000 is the default"
        )
    # The last stream of its kind: orders of epochs take theirs from the front.
    order = permutation(Stream(split_seed, Purpose.ORDER, COUNTER_LIMIT - 1), count)
    rows, held_out = order[:-validation].sort().values, order[-validation:].sort().values
    mean, std = channel_scale(train.images, rows)
    mean, std = mean.float(), std.float()
    if kept is not None:
        pixels = pixels_of(kept)
        mean, std = pixels.mean.flatten(), pixels.std.flatten()
    return Source(
        name="cifar10",
        task="classification",
        train=ByteImages(train.images, train.labels, rows, mean, std),
        validation=ByteImages(train.images, train.labels, held_out, mean, std),
        test=ByteImages(test.images, test.labels, torch.arange(len(test.labels)), mean, std),
        input_shape=IMAGE_SHAPE,
        output_shape=(CLASSES,),
        scale=None,
        pixels=Pixels(mean[:, None, None], std[:, None, None], 255.0),
        classes=NAMES,
    )


def cifar10_new_inputs(source: Source, asked: Asked, **options: Any) -> NewInputs:
    """Offer images of a user's own (read_images.py)."""
    return image_inputs(source, asked)


def channel_scale(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation (C,) float64 (ddof=0; 1 if constant) of some images.

    images: (M, C, H, W) uint8. rows: (N,) int64. Sums of bytes are whole numbers: exact.
    """
    channels = images.shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.int64)
    for part in rows.split(1000):  # type: ignore[no-untyped-call]
        values = images[part].transpose(0, 1).reshape(channels, -1).to(torch.int32)
        total += values.sum(dim=1, dtype=torch.int64)
        squares += values.square().sum(dim=1, dtype=torch.int64)
    count = len(rows) * images.shape[2] * images.shape[3]
    # count^2 times the variances, as integers of any size.
    spread = [count * s - t**2 for t, s in zip(total.tolist(), squares.tolist(), strict=True)]
    std = [math.sqrt(value) / count or 1.0 for value in spread]
    return total.double() / count, torch.tensor(std, dtype=torch.float64)
