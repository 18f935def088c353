"""What a run keeps of its data set, ``data.json``: shapes, and the way from physical units to
inputs and back. So it predicts without the files that it was trained on.
"""

from __future__ import annotations

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


def facts_of(source: Source) -> dict[str, Any] | None:
    """Return plain values that ``source_of`` makes a source of; None of fields, whose forecasts
    start from their files anyway.
    """
    if source.fields is not None:
        return None
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
    }


def source_of(facts: dict[str, Any]) -> Source:
    """Return the source that ``facts_of`` describes, without examples."""
    scale, pixels, window = facts["scale"], facts["pixels"], facts["window"]
    return Source(
        name=facts["name"],
        task=facts["task"],
        train=Unread(facts["training_examples"]),
        validation=Unread(0),
        test=Unread(0),
        input_shape=tuple(facts["input_shape"]),
        output_shape=tuple(facts["output_shape"]),
        scale=scale
        and Scale(
            torch.tensor(scale["mean"], dtype=torch.float64),
            torch.tensor(scale["std"], dtype=torch.float64),
            tuple(scale["channels"]),
            scale["units"],
        ),
        pixels=pixels
        and Pixels(
            torch.tensor(pixels["mean"], dtype=getattr(torch, pixels["dtype"])),
            torch.tensor(pixels["std"], dtype=getattr(torch, pixels["dtype"])),
            pixels["white"],
        ),
        window=window and WindowLayout(**window),
        classes=tuple(facts["classes"]),
    )
