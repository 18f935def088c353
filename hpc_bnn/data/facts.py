"""What a run keeps of its data set, ``data.json``: shapes, and the way from physical units to
inputs and back. So it predicts without the files that it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.data.source import Pixels, Scale, Source, WindowLayout


@dataclass(frozen=True)
class Unread:
    """Count the examples of a data set whose files were not read."""

    count: int

    def __len__(self) -> int:
        """Count the examples."""
        return self.count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Raise ValueError: there is nothing to read."""
        raise ValueError(
            "the examples of this run were not read: only what they look like is known"
        )


def facts_of(source: Source) -> dict[str, Any]:
    """Return plain values that ``source_of`` makes a source of."""
    fields = source.fields
    scale, pixels, window = source.scale, source.pixels, source.window
    return {
        "name": source.name,
        "task": source.task,
        "input_shape": list(source.input_shape),
        "output_shape": list(source.output_shape),
        "training_examples": len(source.train),
        "scale": scale and {**vars(scale), "mean": scale.mean.tolist(), "std": scale.std.tolist()},
        "pixels": pixels
        and {
            "mean": pixels.mean.tolist(),
            "std": pixels.std.tolist(),
            "dtype": str(pixels.mean.dtype).removeprefix("torch."),
            "white": pixels.white,
        },
        "window": window and asdict(window),
        "classes": list(source.classes),
        "fields": fields
        and {
            "names": list(fields.names),
            "units": [channel.units for channel in fields.channels],
            "mean": fields.state_mean.tolist(),
            "std": fields.state_std.tolist(),
            "tendency_std": fields.tendency_std.tolist(),
        },
    }


def scale_of(facts: Mapping[str, Any]) -> Scale:
    """Return the scale of a series that ``facts_of`` described."""
    scale = facts["scale"]
    return Scale(
        torch.tensor(scale["mean"], dtype=torch.float64),
        torch.tensor(scale["std"], dtype=torch.float64),
        tuple(scale["channels"]),
        scale["units"],
    )


def layout_of(facts: Mapping[str, Any]) -> WindowLayout:
    """Return the windows of a series that ``facts_of`` described."""
    return WindowLayout(**facts["window"])


def pixels_of(facts: Mapping[str, Any]) -> Pixels:
    """Return what ``facts_of`` described of images."""
    pixels = facts["pixels"]
    mean, std = (
        torch.tensor(pixels[name], dtype=getattr(torch, pixels["dtype"]))
        for name in ("mean", "std")
    )
    return Pixels(mean, std, pixels["white"])


def source_of(facts: Mapping[str, Any]) -> Source | None:
    """Return the source that ``facts_of`` describes, without examples; None of fields, whose
    forecasts start from their files.
    """
    if facts["fields"] is not None:
        return None
    scale, pixels = facts["scale"], facts["pixels"]
    return Source(
        name=facts["name"],
        task=facts["task"],
        train=Unread(facts["training_examples"]),
        validation=Unread(0),
        test=Unread(0),
        input_shape=tuple(facts["input_shape"]),
        output_shape=tuple(facts["output_shape"]),
        scale=scale and scale_of(facts),
        pixels=pixels and pixels_of(facts),
        window=facts["window"] and layout_of(facts),
        classes=tuple(facts["classes"]),
    )
