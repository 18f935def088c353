"""Make the parts of a run from its settings: data, network, posterior, loss, optimizer."""

import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config import (
    Choice,
    OptimizerSettings,
    Settings,
    SettingsError,
    check_options,
    choose,
)
from hpc_bnn.config.options import absolute, path_options
from hpc_bnn.data import AUGMENTATIONS, DATA_SETS, Source, data_set
from hpc_bnn.data.augment import Augmentation
from hpc_bnn.data.sharding import steps_per_epoch
from hpc_bnn.fields.perturb.perturbation import Perturbation
from hpc_bnn.group import Group
from hpc_bnn.losses import LOSSES, Loss
from hpc_bnn.models import MODELS
from hpc_bnn.models.find import find_model, make_network
from hpc_bnn.models.normalised import NormalisedWindows
from hpc_bnn.parallel.engines import check_engine
from hpc_bnn.train.run.build_loss import build_loss
from hpc_bnn.train.run.forecast_choices import forecast_problems, noise_of
from hpc_bnn.train.run.old_options import with_old_options
from hpc_bnn.train.run.optimizers import OPTIMIZERS
from hpc_bnn.train.step.input_noise import InputNoise
from hpc_bnn.train.step.settings import StepSettings
from hpc_bnn.train.step.unroll import Unroll

log = logging.getLogger(__name__)
C = TypeVar("C", bound=Choice)

GIVEN_TO_DATA = ("ranks", "rollout", "kept")
GIVEN_TO_POSTERIORS = ("module", "samples", "seed", "steps")
GIVEN_TO_MODELS = ("input_shape", "output_shape")
GIVEN_TO_OPTIMIZERS = ("posterior", "others", "lr")


@dataclass(frozen=True)
class Parts:
    """What a run is made of; the same on every rank before the first step."""

    source: Source
    posterior: Posterior
    loss: Loss
    augment: Augmentation | None
    unroll: Unroll | None = None
    perturbation: Perturbation | None = None
    input_noise: InputNoise | None = None
    chosen_optimizer: OptimizerSettings | None = None

    def optimizer(self, lr: float) -> torch.optim.Optimizer:
        """Return the optimizer of the method, else the chosen one for all that is trained."""
        given = self.posterior.optimizer(lr)
        if given is not None:
            learns = [name for name, p in self.loss.named_parameters() if p.requires_grad]
            if learns:
                raise ValueError(
                    f"loss: learns {learns[0]}, and {type(self.posterior).__name__} moves weights "
                    "of the network only; choose a loss that learns nothing"
                )
            return given
        chosen = self.chosen_optimizer or OptimizerSettings()
        return OPTIMIZERS[chosen.name](self.posterior, self.loss, lr=lr, **chosen.options)


def check_choices(settings: Settings, origin: str) -> None:
    """Check every name and option against what it chooses, without reading any data.

    Raises
    ------
    SettingsError
        With every error, each starting with ``origin``, the settings file.
    """
    wrong_engine = check_engine(settings.grid.engine, settings.train.compression)
    problems: list[str] = [wrong_engine] if wrong_engine else []
    data_sets = {name: data_set(name) for name in DATA_SETS if name == settings.data.name}
    sections: tuple[tuple[str, Choice, Mapping[str, Any], tuple[str, ...]], ...] = (
        ("posterior", settings.posterior, POSTERIORS, GIVEN_TO_POSTERIORS),
        ("loss", settings.loss, LOSSES, ()),
        ("model", settings.model, MODELS, GIVEN_TO_MODELS),
        ("data", settings.data, data_sets, GIVEN_TO_DATA),
        ("optimizer", _optimizer(settings), OPTIMIZERS, GIVEN_TO_OPTIMIZERS),
    )
    for section, choice, choices, given in sections:
        name, keys = choice.name, type(choice).model_fields
        if section == "model" and name not in choices:
            problems += _problems_of_path(settings)
            continue
        wrong = choose(section, name, DATA_SETS if section == "data" else choices)
        problems += (
            [wrong]
            if wrong
            else check_options(section, choices[name], choice.options, given=given, beside=keys)
        )
    if settings.optimizer and _brings_optimizer(settings):
        problems.append(
            f"optimizer.name = {settings.optimizer.name!r}: posterior.name = "
            f"{settings.posterior.name!r} moves its parameters itself; leave the section "
            "optimizer out, or choose another posterior"
        )
    transform = dict(settings.data.transform)
    if transform:
        name = str(transform.pop("name", ""))
        wrong = choose("data.transform", name, AUGMENTATIONS)
        problems += (
            [wrong] if wrong else check_options("data.transform", AUGMENTATIONS[name], transform)
        )
    problems += forecast_problems(settings)
    if problems:
        raise SettingsError([f"{origin}: {problem}" for problem in problems])


def _problems_of_path(settings: Settings) -> list[str]:
    """Return what is wrong with the options of a user's own class, or with its path."""
    chosen = settings.model
    try:
        model = find_model(chosen.name)
    except ValueError as error:
        return [str(error)]
    given, keys = tuple(inspect.signature(model).parameters)[:2], type(chosen).model_fields
    return check_options("model", model, chosen.options, given=given, beside=keys)


def _network(settings: Settings, source: Source, loss: Loss) -> torch.nn.Module:
    chosen = settings.model
    shapes = source.input_shape, loss.output_shape(source.output_shape)
    try:
        facts = _facts(settings, find_model(chosen.name), source)
        return make_network(chosen.name, shapes, {**chosen.options, **facts})
    except ValueError as error:
        raise SettingsError([str(error)]) from error


def resolved(settings: Settings) -> Settings:
    """Return settings that hold every option of the posterior and the optimizer, defaults too, and
    those whose default changed once, with absolute paths: a run is found again from any
    folder.
    """
    settings = with_old_options(settings)
    posterior = _with_defaults(settings.posterior, POSTERIORS, GIVEN_TO_POSTERIORS)
    optimizer = settings.optimizer
    if not _brings_optimizer(settings):
        optimizer = _with_defaults(_optimizer(settings), OPTIMIZERS, GIVEN_TO_OPTIMIZERS)
    data, training = settings.data, settings.train
    if data.name in DATA_SETS:
        paths = path_options(data_set(data.name), data.options)
        data = data.model_copy(update={key: absolute(data.options[key]) for key in paths})
    if training.start_from:
        training = training.model_copy(update={"start_from": absolute(training.start_from)})
    made = {"posterior": posterior, "optimizer": optimizer, "data": data, "train": training}
    return settings.model_copy(update=made)


def _optimizer(settings: Settings) -> OptimizerSettings:
    return settings.optimizer or OptimizerSettings()


def _brings_optimizer(settings: Settings) -> bool:
    """Tell whether the posterior is a way of moving the parameters itself."""
    method = POSTERIORS.get(settings.posterior.name, Posterior)
    return method.optimizer is not Posterior.optimizer


def _with_defaults(chosen: C, choices: Mapping[str, Any], given: Collection[str]) -> C:
    """Return a section that holds the defaults of what it chooses."""
    choice = choices.get(chosen.name)
    parameters = {} if choice is None else inspect.signature(choice).parameters
    options = {
        name: parameter.default for name, parameter in parameters.items() if name not in given
    }
    return chosen.model_copy(update=options | chosen.options)


def read_source(
    settings: Settings, ranks: Group, *, kept: Mapping[str, Any] | None = None
) -> Source:
    """Collective over the ranks: read the data set, on the first rank for all where no data set
    says otherwise (``ranks``); ``kept`` is what a trained run keeps of its own, where it is to see
    others.

    Raises
    ------
    SettingsError
        If the data set needs a package that is not installed.
    """
    function, options = data_set(settings.data.name), settings.data.options
    if _takes(function, "rollout"):
        options["rollout"] = settings.train.longest_rollout
    if kept is not None and _takes(function, "kept"):
        options["kept"] = kept
    try:
        if _takes(function, "ranks"):
            return function(**options, ranks=ranks)
        return ranks.on_first(lambda: function(**options), name="reading the data")
    except ImportError as error:
        raise SettingsError([f"data.name = {settings.data.name!r}: {error}"]) from error


def build(settings: Settings, source: Source) -> Parts:
    """Make the parts; initial weights depend on the seed only."""
    loss = build_loss(settings, source)
    torch.manual_seed(settings.seed)
    network = _network(settings, source, loss)
    if source.window is not None and source.window.normalize != "training":
        history, channels = source.window.history, source.window.channels
        last = source.window.normalize == "window_last"
        network = NormalisedWindows(network, history, channels, last=last, rescale=loss.rescale)
    if settings.train.precision == "float64":
        network, loss = network.double(), loss.double()
    chosen = settings.posterior
    method, options = POSTERIORS[chosen.name], {"seed": settings.seed, **chosen.options}
    if _takes(method, "samples"):
        options["samples"] = chosen.samples
    if _takes(method, "steps"):
        per_epoch = steps_per_epoch(len(source.train), settings.train.batch_size)
        options["steps"] = settings.train.total_steps(per_epoch)
    posterior = method(network, **options)
    transform = dict(settings.data.transform)
    augment = AUGMENTATIONS[transform.pop("name")](**transform) if transform else None
    unroll = None
    if settings.train.longest_rollout > 1 and source.fields is not None:
        unroll = Unroll(source.fields)
    noise = noise_of(settings, source)
    return Parts(source, posterior, loss, augment, unroll, *noise, settings.optimizer)


def step_settings(settings: Settings, parts: Parts) -> StepSettings:
    """Return what the settings say of a training step."""
    posterior, chosen = settings.posterior, settings.train
    return StepSettings(
        samples=posterior.samples,
        num_examples=len(parts.source.train),
        kl_weight=posterior.kl_weight,
        kl_warmup_steps=posterior.kl_warmup_steps,
        samples_per_pass=posterior.samples_per_pass,
        keep_graphs=posterior.keep_graphs,
        augment=parts.augment,
        views=settings.data.augmentation,
        unroll=parts.unroll,
        redraw=chosen.redraw,
        input_noise=parts.input_noise,
        clip_norm=chosen.clip_norm or None,
        ema=chosen.ema,
        precision=chosen.precision,
        compile=chosen.compile,
        capture=chosen.capture,
        exact=settings.loss.exact,
        reduction=chosen.reduction,
        compression=chosen.compression,
        guard_every=chosen.guard_every,
        check=chosen.check,
    )


def _takes(function: Callable[..., object], parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def _facts(settings: Settings, model: Any, source: Source) -> dict[str, Any]:
    """Return what the data say of their inputs, for models that ask; settings may not contradict.

    Raises
    ------
    SettingsError
        If they do.
    """
    said: dict[str, Any] = {}
    if source.fields is not None:
        vectors = list(source.fields.vector_inputs)
        said = {"periodic": source.fields.periodic, "vector_channels": vectors}
    if source.window is not None:
        said = {"history": source.window.history}
    asked = inspect.signature(model).parameters
    facts = {key: value for key, value in said.items() if key in asked}
    options = settings.model.options
    wrong = [key for key in facts if key in options and options[key] != facts[key]]
    if wrong:
        raise SettingsError(
            [
                f"model.{key} = {options[key]!r}: the data set says {facts[key]!r}; leave it out"
                for key in wrong
            ]
        )
    return facts
