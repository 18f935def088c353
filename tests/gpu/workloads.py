"""The networks that a visit to a GPU trains, as settings and a batch of made-up examples.

``tiny`` keeps what each is made of and shrinks the numbers, for a machine without a GPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpc_bnn.config import CONFIGS, Settings, load_settings
from hpc_bnn.data import InMemory, Source, without_files

EXAMPLES = 10_000  # of an imagined training set, which only scale the KL


@dataclass(frozen=True)
class Workload:
    """What is trained: settings, and a data set that has the shapes and no numbers."""

    settings: Settings
    source: Source

    def batch(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one step, the same each time."""
        generator = torch.Generator().manual_seed(0)
        count = self.settings.train.batch_size
        x = torch.randn((count, *self.source.input_shape), generator=generator)
        if self.source.task == "classification":
            y = torch.randint(self.source.output_shape[0], (count,), generator=generator)
        else:
            y = torch.randn((count, *self.source.output_shape), generator=generator)
        return x.to(device), y.to(device)


def without_data(task: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Source:
    """Return a data set of examples that take no memory."""
    y = torch.zeros((), dtype=torch.int64) if task == "classification" else torch.zeros(outputs)
    nothing = InMemory(torch.zeros(()).expand(EXAMPLES, *inputs), y.expand(EXAMPLES, *y.shape))
    return Source("made up", task, nothing, nothing, nothing, inputs, outputs, None)


def settings_of(samples: int, batch_size: int, data: str, **sections: dict[str, Any]) -> Settings:
    """Return settings with these sections, which say more than the first arguments."""
    made: dict[str, dict[str, Any]] = {
        "data": {"name": data},
        "train": {"steps": 1000, "batch_size": batch_size, "guard_every": 0, "check": False},
        "posterior": {"samples": samples},
    }
    for name, keys in sections.items():
        made[name] = made.get(name, {}) | keys
    return Settings.model_validate(made)


def mlp(*, tiny: bool) -> Workload:
    """512-1024-1024-96, 1.7 million weights: launches and noise are most of its step."""
    width, inputs, outputs = (32, 24, 6) if tiny else (1024, 512, 96)
    samples, batch = (2, 8) if tiny else (16, 64)
    return Workload(
        settings_of(
            *(samples, batch, "synthetic_series"),
            model={"name": "mlp", "hidden": [width, width]},
            loss={"name": "gaussian_nll"},
        ),
        without_data("regression", (inputs,), (outputs,)),
    )


def vit(*, tiny: bool) -> Workload:
    """The tiny vision transformer on images of CIFAR-10, 2.7 million weights."""
    size = {"width": 24, "depth": 1} if tiny else {}
    samples, batch = (2, 4) if tiny else (16, 256)
    return Workload(
        settings_of(
            *(samples, batch, "cifar10"),
            model={"name": "vit", **size},
            loss={"name": "categorical_nll"},
        ),
        without_data("classification", (3, 32, 32), (10,)),
    )


def swin(*, tiny: bool) -> Workload:
    """The bundled SWIN transformer for ERA5 at 1.5 degrees, two samples of one example."""
    return _fields("swin_era5", (16, 24) if tiny else (121, 240), samples=2, batch=1, tiny=tiny)


def demo(*, tiny: bool) -> Workload:
    """That of the demo, on its toy atmosphere."""
    return _fields("demo", (16, 32) if tiny else (32, 64), samples=4, batch=4, tiny=tiny)


def _fields(
    name: str, points: tuple[int, int], *, samples: int, batch: int, tiny: bool
) -> Workload:
    changes: dict[str, object] = {
        "posterior.samples": samples,
        "perturb": "null",  # with noise on states no pass is captured
        "train.batch_size": batch,
        "train.precision": "float32",
        "train.check": False,
        "train.guard_every": 0,
    }
    if tiny:
        changes |= {"model.width": 16, "model.depths": [2, 2, 2, 2], "model.window": [2, 2]}
        changes |= {"posterior.samples": 2, "train.batch_size": 1}
    settings = load_settings(CONFIGS / f"{name}.yaml", [f"{k}={v}" for k, v in changes.items()])
    shapes = without_files("era5")
    assert shapes is not None
    return Workload(settings, shapes(*points, **settings.data.options))


WORKLOADS: dict[str, Callable[..., Workload]] = {
    "MLP 512-1024-1024-96, B 64, K 16": mlp,
    "ViT tiny, B 256, K 16": vit,
    "SWIN 1.5 degrees, B 1, K 2": swin,
    "SWIN demo, B 4, K 4": demo,
}
