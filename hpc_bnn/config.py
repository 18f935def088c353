"""Settings of a run: one YAML file and ``key=value`` overrides, checked as a whole before anything
starts.

Every error is found at once and names the file, the key, the value and what was expected. The
sections ``model``, ``loss`` and ``data`` choose something by ``name``; their other keys are the
keyword arguments of what was chosen, and are checked against its signature (``check_options``).
"""

import copy
import difflib
import inspect
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.errors import PydanticSchemaGenerationError

SEED_LIMIT = 1 << 48


class SettingsError(ValueError):
    """Settings that cannot be used; the message lists every error, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class _Section(BaseModel):
    # Strict: no number is made of a text, and no 1 sample of ``true``.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Choice(_Section):
    """A section whose further keys belong to what ``name`` chooses."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})


class GridSettings(_Section):
    """How the ranks are laid out."""

    mode: Literal["local", "sample", "data", "hybrid"] = Field(
        "hybrid",
        description="sample: S = world; data: S = 1; hybrid: S = ranks per node; local: one rank",
    )
    sample_ranks: Literal["auto"] | PositiveInt = Field(
        "auto", description="S, ranks of the sample axis; auto: from mode"
    )


class PosteriorSettings(_Section):
    """The distribution of the weights."""

    method: Literal["gaussian"] = Field("gaussian", description="form of the posterior")
    samples: PositiveInt = Field(8, description="K, weight samples per step over the whole grid")
    samples_per_pass: PositiveInt = Field(
        1, description="samples in one forward pass by vmap; 1 keeps memory at one network"
    )
    prior_sigma: PositiveFloat | Literal["fan_in"] = Field(
        1.0, description="standard deviation of the prior, or 1 / sqrt(fan-in) of each layer"
    )
    initial_sigma: PositiveFloat = Field(0.02, description="standard deviation of q at the start")
    random: list[str] | Literal["layers"] = Field(
        "layers", description="patterns of parameter names that are random; layers: by layer type"
    )
    antithetic: bool = Field(False, description="draw mirrored pairs, mu +- sigma eps")
    keep_noise: bool = Field(False, description="hold the noise for backward: faster, more memory")
    temperature: PositiveFloat = Field(1.0, description="below 1: cold posterior")
    kl_weight: NonNegativeFloat = Field(1.0, description="factor of the KL in the objective")
    kl_warmup_steps: NonNegativeInt = Field(0, description="steps over which the KL is faded in")
    predict_samples: PositiveInt = Field(64, description="weight samples of a prediction")


class LossSettings(_Choice):
    """The data term of the objective."""

    exact: bool = Field(True, description="false: joint losses see one rank's samples only")


class ModelSettings(_Choice):
    """The network."""


class DataSettings(_Choice):
    """The data set."""

    augmentation: Literal["per_sample", "per_rank", "shared"] = Field(
        "per_sample",
        description="who gets its own random view of the batch; per_rank depends on the grid",
    )
    transform: dict[str, Any] = Field(
        default_factory=dict, description="augmentation by name with its options; {}: none"
    )


class TrainSettings(_Section):
    """The training loop."""

    steps: NonNegativeInt = Field(0, description="steps to train; 0: by epochs")
    epochs: NonNegativeInt = Field(0, description="epochs to train; 0: by steps")
    batch_size: PositiveInt = Field(64, description="B, examples per step over the whole grid")
    lr: PositiveFloat = Field(1e-3, description="peak learning rate of Adam")
    lr_min: NonNegativeFloat = Field(0.0, description="learning rate at the end of the cosine")
    warmup_steps: NonNegativeInt = Field(0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after the warm-up")
    clip_norm: NonNegativeFloat = Field(0.0, description="largest gradient norm; 0: no clipping")
    precision: Literal["float32", "bf16", "float64"] = Field(
        "float32", description="bf16: autocast; parameters, KL and accumulators stay float32"
    )
    reduction: Literal["world", "two_stage"] = Field(
        "world", description="gradient reduction: once over the world, or along each axis"
    )
    compression: Literal["none", "fp16"] = Field("none", description="of gradients on the wire")
    guard_every: NonNegativeInt = Field(100, description="steps between guards; 0: first step only")
    checkpoint_every: NonNegativeInt = Field(
        0, description="steps between checkpoints; 0: at the end"
    )
    keep_checkpoints: PositiveInt = Field(3, description="newest checkpoints that are kept")
    validate_every: NonNegativeInt = Field(
        0, description="steps between validations; 0: at the end"
    )
    log_every: PositiveInt = Field(50, description="steps between log lines")
    stall_timeout: NonNegativeFloat = Field(
        0.0,
        description="seconds that ranks wait for one another before the job ends, more than a "
        "checkpoint takes; 0: for ever",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to compute")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSettings":
        if bool(self.steps) == bool(self.epochs):
            raise ValueError("set one of steps and epochs to a positive number, the other to 0")
        return self


class Settings(_Section):
    """Everything that determines a run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)  # sections come as dicts
    seed: int = Field(
        0, ge=0, lt=SEED_LIMIT, strict=True, description="key of all noise and initial weights"
    )
    grid: GridSettings = GridSettings()  # type: ignore[call-arg]
    posterior: PosteriorSettings = PosteriorSettings()  # type: ignore[call-arg]
    loss: LossSettings
    model: ModelSettings
    data: DataSettings
    train: TrainSettings


def load_settings(path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Read and check settings.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SettingsError
        With every error of the file and the overrides.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such settings file; the bundled ones are in {CONFIGS}")
    try:
        content = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    if not isinstance(content, dict):
        raise SettingsError(
            [f"{path}: expected sections ({', '.join(Settings.model_fields)}), got {content!r}"]
        )
    in_file = copy.deepcopy(content)
    problems: list[str] = []
    overridden: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(
                f"command line: {override!r}: expected key=value, such as train.lr=0.001"
            )
            continue
        try:
            value = _parse(text)
        except yaml.YAMLError:
            value = text
        if not _assign(content, key.split("."), value):
            problems.append(
                f"command line: {key}: {key.rpartition('.')[0]} holds a value, not a section"
            )
            continue
        overridden.add(key)

    def source(key: str) -> str:
        on_command_line = any(
            f"{key}.".startswith(f"{o}.")
            or (o.startswith(f"{key}.") and not _holds(in_file, key.split(".")))
            for o in overridden
        )
        return "command line" if on_command_line else str(path)

    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        problems += [f"{source(key)}: {text}" for key, text in _explained(error, content)]
        raise SettingsError(problems) from error
    if problems:
        raise SettingsError(problems)
    return settings


def dump_settings(settings: Settings) -> str:
    """Return the resolved settings as YAML; ``load_settings`` reads back the same settings."""
    text: str = yaml.dump(settings.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)
    return text


def difference(old: Settings, new: Settings) -> dict[str, tuple[object, object]]:
    """Return the dotted keys whose values differ, with the old and the new value."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return {
        key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    }


def choose(section: str, name: str, choices: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a name, or None."""
    if name in choices:
        return None
    return (
        f"{section}.name = {name!r}: expected one of {', '.join(choices)}{_nearest(name, choices)}"
    )


def check_options(
    section: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    given: Collection[str] = (),
) -> list[str]:
    """Return what is wrong with ``options`` as keyword arguments of ``function``, one text an
    error.

    ``given`` are the arguments that the program supplies itself. Only parameters that a settings
    file can hold are known: one annotated with a tensor is not.
    """
    target = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(target)
    known: dict[str, TypeAdapter[Any]] = {}
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given:
            continue
        try:
            known[name] = TypeAdapter(hints.get(name, Any))
        except PydanticSchemaGenerationError:
            continue
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    problems = [
        f"{section}.{key}: unknown key{_nearest(key, known)}; known: {', '.join(known) or 'none'}"
        for key in options
        if key not in known
    ]
    problems += [f"{section}.{key}: missing" for key in required if key not in options]
    for key in options:
        if key in known:
            try:
                # As JSON: strict about types, yet a list may stand for a tuple and text for a path.
                known[key].validate_json(json.dumps(options[key], default=str), strict=True)
            except ValidationError as error:
                expected = "; ".join(sorted({e["msg"] for e in error.errors()}))
                problems.append(f"{section}.{key} = {options[key]!r}: {_lower(expected)}")
    return problems


CONFIGS = Path(__file__).parent / "configs"


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-3: YAML 1.1 takes that for text."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that ``_Loader`` would take for numbers."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
    )


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def _holds(tree: object, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _assign(tree: dict[str, Any], path: Sequence[str], value: object) -> bool:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            return False
    tree[path[-1]] = value
    return True


def _explained(error: ValidationError, content: object) -> list[tuple[str, str]]:
    """Return (dotted key, text) for each error, unions told once."""
    texts: dict[str, list[str]] = {}
    for item in error.errors():
        path = _data_path(item["loc"], content)
        key = ".".join(path)
        if item["type"] == "extra_forbidden":
            text = f"unknown key{_nearest(path[-1], _fields(path[:-1]))}"
        elif item["type"] == "missing":
            text = "missing"
        else:
            text = f"= {item['input']!r}: {_lower(item['msg'].removeprefix('Value error, '))}"
        texts.setdefault(key, []).append(text)
    explained = []
    for key, alternatives in texts.items():
        first, *rest = dict.fromkeys(alternatives)
        also = [text.partition(": ")[2] or text for text in rest]
        joiner = " " if first.startswith("=") else ": "
        explained.append((key, f"{key}{joiner}{' or '.join([first, *also])}"))
    return explained


def _data_path(location: tuple[int | str, ...], content: object) -> list[str]:
    """Drop the parts of a location that name branches of a union instead of keys of the file."""
    path: list[str] = []
    for i, part in enumerate(location):
        is_key = isinstance(content, dict) and part in content
        if not is_key and i < len(location) - 1:
            break
        if not is_key and not isinstance(content, dict):
            break
        path.append(str(part))
        content = content[part] if isinstance(content, dict) and part in content else None
    return path


def _fields(path: Sequence[str]) -> list[str]:
    model: Any = Settings
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not inspect.isclass(field.annotation):
            return []
        model = field.annotation
    return list(model.model_fields)


def _nearest(key: str, known: Collection[str]) -> str:
    matches = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
