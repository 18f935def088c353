"""Make the loss of a run from its settings: what points of fields count for."""

import inspect
import logging

import torch
from torch import Tensor

from hpc_bnn.config import Settings, SettingsError
from hpc_bnn.data import Source
from hpc_bnn.data.source import Fields
from hpc_bnn.losses import LOSSES, Loss
from hpc_bnn.losses.cell_area import cell_area

log = logging.getLogger(__name__)


def build_loss(settings: Settings, source: Source) -> Loss:
    """Make the loss; the points of fields count by cell area and by the weight of their channel,
    those that never have a value not at all.
    """
    chosen, function = settings.loss, LOSSES[settings.loss.name]
    takes = inspect.signature(function).parameters
    takes_weights = "weights" in takes
    present = None if source.fields is None else source.fields.present
    _check_spectral(settings, source)
    if present is not None and not (takes_weights and "present" in takes):
        problem = f"loss.name = {chosen.name!r}: counts every point, but {source.name} has some"
        raise SettingsError([f"{problem} without values; choose another loss, or leave these out"])
    if source.fields is None or not takes_weights:
        if chosen.channel_weights:
            reason = "takes no weights" if source.fields else "are for data sets of fields"
            what = f"loss.name = {chosen.name!r}" if source.fields else "they"
            raise SettingsError([f"loss.channel_weights: {what} {reason}; leave them out"])
        if source.fields is not None and chosen.area_weights:
            log.info("loss %s takes no weights: every grid point counts equally", chosen.name)
        return function(**chosen.options)
    weights = _weights(settings, source.fields)
    if present is None:
        return function(**chosen.options, weights=weights)
    return function(**chosen.options, weights=weights, present=present)


def _check_spectral(settings: Settings, source: Source) -> None:
    """Refuse a score of zonal amplitudes of what is no circle of longitude, or has gaps."""
    spectral = settings.loss.options.get("spectral", 0.0)
    if not spectral:
        return
    if source.fields is None:
        problem = f"is for fields on a globe, and {source.name} has none"
    elif not source.fields.periodic:
        problem = "needs whole circles of longitude, and these fields cover a region"
    elif source.fields.present is not None:
        problem = "needs a value at every point, and some of these fields have none at some"
    else:
        return
    raise SettingsError([f"loss.spectral = {spectral!r}: {problem}; leave it out"])


def _weights(settings: Settings, fields: Fields) -> Tensor:
    """Return the weights (C, H, 1) of the points of a state."""
    given = settings.loss.channel_weights
    unknown = [name for name in given if name not in fields.names]
    if unknown:
        raise SettingsError(
            [
                f"loss.channel_weights: no channel {name!r}; the data set has "
                f"{', '.join(fields.names)}"
                for name in unknown
            ]
        )
    if given and not any(given.get(name, 1.0) for name in fields.names):
        raise SettingsError(["loss.channel_weights: every channel has weight 0; give one more"])
    channels = torch.tensor([given.get(name, 1.0) for name in fields.names], dtype=torch.float64)
    rows = torch.ones(len(fields.latitude), dtype=torch.float64)
    if settings.loss.area_weights:
        rows = cell_area(fields.latitude)
    return channels[:, None, None] * rows[:, None]
