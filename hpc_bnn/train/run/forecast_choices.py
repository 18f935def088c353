"""How forecasts are made: what is wrong with their settings, and the noise on states."""

import inspect

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import Settings, SettingsError, check_options, choose
from hpc_bnn.config.perturb_settings import PerturbSettings
from hpc_bnn.data import DATA_SETS, Source, data_set
from hpc_bnn.fields.perturb import GIVEN_TO_PATTERNS, PATTERNS
from hpc_bnn.fields.perturb.perturbation import Perturbation
from hpc_bnn.train.step.input_noise import InputNoise


def forecast_problems(settings: Settings) -> list[str]:
    """Return what is wrong with rollouts in training and with how forecasts are made."""
    wishes: list[tuple[str, object]] = []
    if settings.train.longest_rollout > 1:
        wishes.append(("train.rollout", settings.train.rollout))
    if settings.train.redraw != "never":
        wishes.append(("train.redraw", settings.train.redraw))
    if settings.forecast.redraw != "never":
        wishes.append(("forecast.redraw", settings.forecast.redraw))
    if settings.perturb is not None:
        wishes.append(("perturb.name", settings.perturb.name))
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
    if settings.train.redraw != "never" and method is not None and not _draws_in_training(method):
        problems.append(
            f"train.redraw = {settings.train.redraw!r}: the samples of posterior.name = "
            f"{settings.posterior.name!r} are members that are trained, so there are no others to "
            "draw; leave it out"
        )
    if settings.perturb is not None:
        wrong = choose("perturb", settings.perturb.name, PATTERNS)
        problems += [wrong] if wrong else _option_problems(settings.perturb)
        is_of_one = settings.perturb.at == "training" and settings.train.longest_rollout == 1
        if settings.perturb.redraw != "never" and is_of_one:
            problems.append(
                f"perturb.redraw = {settings.perturb.redraw!r}: perturb.at = 'training' and "
                "train.rollout has one step, so there are no later states; leave it out, or set "
                "perturb.at to both"
            )
    return problems


def noise_of(settings: Settings, source: Source) -> tuple[Perturbation | None, InputNoise | None]:
    """Return the noise on states of forecasts and of training inputs, where there is any.

    Raises
    ------
    SettingsError
        If it does not fit the fields.
    """
    chosen, fields = settings.perturb, source.fields
    if chosen is None or fields is None:
        return None, None
    try:
        made = Perturbation(
            fields,
            name=chosen.name,
            scale=chosen.scale,
            unit=chosen.unit,
            options=chosen.options,
            redraw=chosen.redraw,
        )
    except ValueError as error:
        raise SettingsError([str(error)]) from error
    return (
        None if chosen.at == "training" else made,
        None if chosen.at == "forecasts" else InputNoise(made, fields),
    )


def _option_problems(chosen: PerturbSettings) -> list[str]:
    keys = type(chosen).model_fields
    pattern = PATTERNS[chosen.name]
    return check_options("perturb", pattern, chosen.options, given=GIVEN_TO_PATTERNS, beside=keys)


def _draws_in_training(method: type[Posterior]) -> bool:
    """Tell whether the weight samples of training are drawn, not members that are trained."""
    return method.draws and "samples" not in inspect.signature(method).parameters


def _has_states(name: str) -> bool:
    return "rollout" in inspect.signature(data_set(name)).parameters
