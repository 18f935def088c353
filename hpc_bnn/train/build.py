"""Make the parts of a run from its settings: data, network, posterior, loss, optimizer."""

from dataclasses import dataclass
from typing import Any

import torch

from hpc_bnn.bayes import POSTERIORS, Gaussian
from hpc_bnn.config import Settings, SettingsError, check_options, choose
from hpc_bnn.data import AUGMENTATIONS, DATA_SETS, Source
from hpc_bnn.losses import LOSSES, Loss
from hpc_bnn.models import MODELS
from hpc_bnn.train.passes import Augment

GIVEN_TO_MODELS = ("input_shape", "output_shape")


@dataclass(frozen=True)
class Parts:
    """What a run is made of; the same on every rank before the first step."""

    source: Source
    posterior: Gaussian
    loss: Loss
    augment: Augment | None

    def optimizer(self, lr: float) -> torch.optim.Adam:
        """Return Adam over everything that is trained."""
        parameters = [*self.posterior.parameters(), *self.loss.parameters()]
        return torch.optim.Adam([p for p in parameters if p.requires_grad], lr=lr, fused=True)


def check_choices(settings: Settings, origin: str) -> None:
    """Check every name and option against what it chooses, without reading any data.

    Raises
    ------
    SettingsError
        With every error, each starting with ``origin``, the settings file.
    """
    problems: list[str] = []
    sections: tuple[tuple[str, str, dict[str, Any], dict[str, Any], tuple[str, ...]], ...] = (
        ("loss", settings.loss.name, settings.loss.options, LOSSES, ()),
        ("model", settings.model.name, settings.model.options, MODELS, GIVEN_TO_MODELS),
        ("data", settings.data.name, settings.data.options, DATA_SETS, ()),
    )
    for section, name, options, choices, given in sections:
        wrong = choose(section, name, choices)
        problems += (
            [wrong] if wrong else check_options(section, choices[name], options, given=given)
        )
    transform = dict(settings.data.transform)
    if transform:
        name = str(transform.pop("name", ""))
        wrong = choose("data.transform", name, AUGMENTATIONS)
        problems += (
            [wrong] if wrong else check_options("data.transform", AUGMENTATIONS[name], transform)
        )
    if problems:
        raise SettingsError([f"{origin}: {problem}" for problem in problems])


def read_source(settings: Settings) -> Source:
    """Read the data set.

    Raises
    ------
    SettingsError
        If the data set needs a package that is not installed.
    """
    try:
        return DATA_SETS[settings.data.name](**settings.data.options)
    except ImportError as error:
        raise SettingsError([f"data.name = {settings.data.name!r}: {error}"]) from error


def build(settings: Settings, source: Source) -> Parts:
    """Make the parts; initial weights depend on the seed only."""
    loss = LOSSES[settings.loss.name](**settings.loss.options)
    torch.manual_seed(settings.seed)
    network = MODELS[settings.model.name](
        source.input_shape, loss.output_shape(source.output_shape), **settings.model.options
    )
    if settings.train.precision == "float64":
        network, loss = network.double(), loss.double()
    chosen = settings.posterior
    posterior = POSTERIORS[chosen.method](
        network,
        prior_sigma=chosen.prior_sigma,
        initial_sigma=chosen.initial_sigma,
        random=None if chosen.random == "layers" else chosen.random,
        antithetic=chosen.antithetic,
        keep_noise=chosen.keep_noise,
        temperature=chosen.temperature,
        seed=settings.seed,
    )
    transform = dict(settings.data.transform)
    augment = AUGMENTATIONS[transform.pop("name")](**transform) if transform else None
    return Parts(source, posterior, loss, augment)
