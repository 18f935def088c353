"""What settings of forecasts ask of the data set and the posterior, known without reading data."""

import inspect

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.config import Settings
from hpc_bnn.data import DATA_SETS, data_set


def forecast_problems(settings: Settings) -> list[str]:
    """Return what is wrong with rollouts in training and with how forecasts are made."""
    wishes: list[tuple[str, object]] = []
    if settings.train.longest_rollout > 1:
        wishes.append(("train.rollout", settings.train.rollout))
    if settings.forecast.redraw != "never":
        wishes.append(("forecast.redraw", settings.forecast.redraw))
    name = settings.data.name
    problems = [
        f"{key} = {value!r}: data.name = {name!r} has no states to step forward; leave it out, or "
        "choose a data set of fields"
        for key, value in wishes
        if name in DATA_SETS and not _has_states(name)
    ]
    method = POSTERIORS.get(settings.posterior.name)
    if settings.forecast.redraw != "never" and method is not None and not method.draws:
        problems.append(
            f"forecast.redraw = {settings.forecast.redraw!r}: the samples of posterior.name = "
            f"{settings.posterior.name!r} are members that were trained, so there are no others to "
            "draw; leave it out"
        )
    return problems


def _has_states(name: str) -> bool:
    return "rollout" in inspect.signature(data_set(name)).parameters
