"""Settings as tables: those that differ from their defaults, or from one run to the next."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.config import Choice, Settings
from hpc_bnn.config.describe import in_yaml
from hpc_bnn.config.options import known_options
from hpc_bnn.data import AUGMENTATIONS, DATA_SETS, data_set
from hpc_bnn.losses import LOSSES
from hpc_bnn.models import MODELS
from hpc_bnn.study.report.blocks import DASH, Cell, Table
from hpc_bnn.study.report.folders import Run
from hpc_bnn.train.run import build
from hpc_bnn.train.run.optimizers import OPTIMIZERS

Tree = Mapping[str, Any]
LONGEST = 160  # letters of a value


def from_defaults(run: Run) -> Table | None:
    """Return the settings of a run that differ from their defaults; None: they are unknown."""
    if run.settings is None:
        return None
    defaults = default_values(run.settings)
    rows = [
        (key, _text(value), _text(defaults[key]) if key in defaults else "required")
        for key, value in flat(run.settings).items()
        if key not in defaults or _plain(value) != _plain(defaults[key])
    ]
    return Table(
        ("setting", "value", "default"),
        [[Cell(text) for text in row] for row in rows],
    )


def between_runs(runs: Sequence[Run]) -> Table | None:
    """Return the settings in which runs differ, a column each; None where they do not."""
    values = [{} if run.settings is None else flat(run.settings) for run in runs]
    keys = list(dict.fromkeys(key for held in values for key in held))
    rows = []
    for key in keys:
        texts = [_text(held[key]) if key in held else DASH for held in values]
        if len({_plain(held.get(key)) for held in values}) > 1:
            rows.append([Cell(key), *map(Cell, texts)])
    return Table(("setting", *(run.name for run in runs)), rows) if rows else None


def default_values(settings: Settings) -> dict[str, object]:
    """Return the default of every key that has one, those of the chosen options included."""
    defaults: dict[str, object] = {}
    for section, field in Settings.model_fields.items():
        part = getattr(settings, section)
        if not hasattr(part, "model_fields_set"):
            defaults[section] = field.get_default(call_default_factory=True)
            continue
        for key, own in type(part).model_fields.items():
            if not own.is_required():
                defaults[f"{section}.{key}"] = own.get_default(call_default_factory=True)
        if isinstance(part, Choice):
            for key, option in _options(section, part.name).items():
                defaults[f"{section}.{key}"] = option
    transform = settings.data.transform
    for key, option in _options("data.transform", str(transform.get("name"))).items():
        defaults[f"data.transform.{key}"] = option
    return defaults


def flat(settings: Settings) -> dict[str, object]:
    """Return the settings by dotted key."""
    tree: dict[str, object] = {}

    def add(prefix: str, values: Tree) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and value and prefix in ("", "data."):
                add(f"{prefix}{key}.", value)
            else:
                tree[f"{prefix}{key}"] = value

    add("", {k: v for k, v in settings.model_dump(mode="json").items() if v is not None})
    return tree


def _options(section: str, name: str) -> dict[str, object]:
    """Return the defaults of the options of a choice; none of one that is not of this package."""
    tables: dict[str, tuple[Collection[str], Callable[[str], Any], Collection[str]]] = {
        "posterior": (POSTERIORS, POSTERIORS.get, build.GIVEN_TO_POSTERIORS),
        "loss": (LOSSES, LOSSES.get, ()),
        "model": (MODELS, MODELS.get, build.GIVEN_TO_MODELS),
        "data": (DATA_SETS, data_set, build.GIVEN_TO_DATA),
        "data.transform": (AUGMENTATIONS, AUGMENTATIONS.get, ()),
        "optimizer": (OPTIMIZERS, OPTIMIZERS.get, build.GIVEN_TO_OPTIMIZERS),
    }
    if section not in tables or name not in tables[section][0]:
        return {}
    _, function_of, given = tables[section]
    known = known_options(function_of(name), given=given)
    return {key: option.default for key, option in known.items() if not option.is_required}


def _plain(value: object) -> str:
    """Return a value in a form in which tuples and lists are the same."""
    return json.dumps(value, sort_keys=True, default=str)


def _text(value: object) -> str:
    text = in_yaml(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
