"""Options whose default changed, written out in the settings of a run.

Run folders whose config.yaml does not hold such an option are of a version that knew one way only:
how windows of a series were normalised (by the training part), and how the tokens of a SWIN became
points (each patch alone).
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from hpc_bnn.config import Choice, Settings
from hpc_bnn.data import DATA_SETS, data_set
from hpc_bnn.models import MODELS

C = TypeVar("C", bound=Choice)


def with_old_options(settings: Settings, *, of_old_run: bool = False) -> Settings:
    """Return settings that hold each such option where what they choose takes it: as given, else
    the default, or what it was in an old run.
    """
    data, model = settings.data, settings.model
    if data.name in DATA_SETS:
        data = _written_out(
            data, data_set(data.name), "normalize", "training" if of_old_run else None
        )
    if model.name in MODELS:
        model = _written_out(model, MODELS[model.name], "recovery", "patch" if of_old_run else None)
    return settings.model_copy(update={"data": data, "model": model})


def _written_out(chosen: C, function: Callable[..., Any], key: str, value: str | None) -> C:
    """Return a section that holds ``key``, its default where ``value`` is None."""
    parameter = inspect.signature(function).parameters.get(key)
    if parameter is None or key in chosen.options:
        return chosen
    return chosen.model_copy(update={key: parameter.default if value is None else value})
