"""Handwritten digits that come with scikit-learn: 1797 grey images of 8 x 8 pixels in 10 classes.

Small enough for a test, real enough for a calibration plot, and there without a download. The split
is the one of the reference numbers (multinomial logistic regression: accuracy 0.9694, NLL 0.1243,
Brier 0.0589 on the test part): 80/20, stratified, random_state=0.

Shape letters: N examples, F features (pixels), H image height, W image width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.data.images.read_images import image_inputs
from hpc_bnn.data.new_inputs import Asked, NewInputs
from hpc_bnn.data.source import InMemory, Pixels, Source

CLASSES = 10
SIDE = 8
WHITE = 16.0


def digits(*, validation_fraction: float = 0.1) -> Source:
    """Load the digits as x (N, 1, 8, 8) float32, standardised per pixel, and y (N,) int64.

    The test part (360 images) never depends on `validation_fraction`. The validation part is taken,
    stratified, out of the other 1437 images; what is left is the training part, whose mean and
    standard deviation (ddof=0; 1 for pixels that never vary there) standardise all three.

    Parameters
    ----------
    validation_fraction
        Share of the 1437 images.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    ValueError
        If `validation_fraction` leaves a class without an image in the training or the validation
        part.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped, unused-ignore]
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(
            "digits: the images come with scikit-learn, which is not installed; "
            "run: pip install scikit-learn, or pip install 'hpc_bnn[digits]'"
        ) from error

    images, labels = load_digits(return_X_y=True)
    images_rest, images_test, labels_rest, labels_test = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    num_validation = _num_validation(validation_fraction, len(labels_rest))
    images_train, images_validation, labels_train, labels_validation = train_test_split(
        images_rest, labels_rest, test_size=num_validation, stratify=labels_rest, random_state=0
    )

    train = torch.as_tensor(images_train, dtype=torch.float64)
    mean, std = pixel_scale(train)

    def examples(pixels: object, targets: object) -> InMemory:
        x = (torch.as_tensor(pixels, dtype=torch.float64) - mean) / std
        return InMemory(
            x.float().reshape(-1, 1, SIDE, SIDE), torch.as_tensor(targets, dtype=torch.int64)
        )

    return Source(
        name="digits",
        task="classification",
        train=examples(images_train, labels_train),
        validation=examples(images_validation, labels_validation),
        test=examples(images_test, labels_test),
        input_shape=(1, SIDE, SIDE),
        output_shape=(CLASSES,),
        scale=None,
        pixels=Pixels(mean.reshape(1, SIDE, SIDE), std.reshape(1, SIDE, SIDE), WHITE),
        classes=tuple(map(str, range(CLASSES))),
    )


def digits_new_inputs(source: Source, asked: Asked, **options: Any) -> NewInputs:
    """Offer images of a user's own (read_images.py)."""
    return image_inputs(source, asked)


def pixel_scale(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation (ddof=0; 1 if constant) of pixels (N, F) over N."""
    std = pixels.std(dim=0, correction=0)
    never_varies = pixels.amin(dim=0) == pixels.amax(dim=0)
    return pixels.mean(dim=0), torch.where(never_varies, torch.ones_like(std), std)


def _num_validation(fraction: float, available: int) -> int:
    """Turn the fraction into a count that leaves every class at least one image on both sides."""
    count = math.ceil(fraction * available) if 0 < fraction < 1 else 0
    if not CLASSES <= count <= available - CLASSES:
        lowest, highest = CLASSES / available, 1 - CLASSES / available
        raise ValueError(
            f"digits: validation_fraction = {fraction}: expected between {lowest:.3f} and "
            f"{highest:.3f}, so that "
            f"each of the {CLASSES} classes has an image in the training and in the validation "
            "part "
            f"({available} images together); 0.1 is the default"
        )
    return count
