"""Read settings from one YAML file and ``key=value`` overrides, checked as a whole before anything
starts.

Every error is found at once and names the file, the key, the value and what was expected.
"""

import copy
import inspect
import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from hpc_bnn.config.options import IN_QUOTES, lower, needs_quotes
from hpc_bnn.config.section import Choice
from hpc_bnn.config.settings import Settings, SettingsError
from hpc_bnn.config.yaml_text import MOST_LEVELS, Dumper, TrapError, parse, read_yaml
from hpc_bnn.spelling import nearest

CONFIGS = Path(__file__).parents[1] / "configs"
log = logging.getLogger(__name__)


def load_settings(
    path: Path, overrides: Sequence[str] = (), *, defaults: Sequence[str] = ()
) -> Settings:
    """Read and check settings.

    overrides, defaults: each key=value; a default counts where neither file nor overrides hold the
    key.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    SettingsError
        With every error of the file and the overrides.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such settings file; the bundled ones are in {CONFIGS}")
    content = read_yaml(path)
    if not isinstance(content, dict):
        sections, given = ", ".join(Settings.model_fields), str(content)[:80]
        raise SettingsError([f"{path}: expected sections ({sections}), got {given}"])
    in_file = copy.deepcopy(content)
    problems: list[str] = []
    overridden: set[str] = set()
    for number, override in enumerate((*overrides, *defaults)):
        key, equals, text = override.partition("=")
        if number >= len(overrides) and _holds(content, key.split(".")):
            continue
        if not equals or not key:
            problems.append(
                f"command line: {override!r}: expected key=value, such as train.lr=0.001"
            )
            continue
        try:
            value = parse(text)
        except TrapError as error:
            problems.append(f"command line: {key[:80]}: {error}")
            continue
        except yaml.YAMLError:
            value = text
        if key.count(".") >= MOST_LEVELS:
            problems.append(f"command line: {key[:80]}...: expected a key of fewer levels")
            continue
        if not _assign(content, key.split("."), value):
            problems.append(
                f"command line: {key}: {key.rpartition('.')[0]} holds a value, not a section"
            )
            continue
        overridden.add(key)

    _drop_options_of_another(content, in_file, overridden)
    data = content.get("data")
    if isinstance(data, dict) and data.pop("share", None) is not None:
        log_gone("data.share", "every rank reads its own batches")

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


@cache
def log_gone(key: str, instead: str) -> None:
    """Log, once in a process, that a key of older settings does nothing."""
    log.info("%s is gone and is ignored: %s; remove the key", key, instead)


def dump_settings(settings: Settings) -> str:
    """Return the resolved settings as YAML; ``load_settings`` reads back the same settings."""
    text: str = yaml.dump(settings.model_dump(mode="json"), Dumper=Dumper, sort_keys=False)
    return text


def difference(old: Settings, new: Settings) -> dict[str, tuple[object, object]]:
    """Return the dotted keys whose values differ, with the old and the new value."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(key for key in after if key not in before)]
    return {
        key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    }


def _drop_options_of_another(
    content: dict[str, Any], in_file: dict[str, Any], overridden: Collection[str]
) -> None:
    """Leave out the options that a file has for one choice where the command line makes another:
    what two methods call by one name need not be the same thing.
    """
    for section, field in Settings.model_fields.items():
        before, now = in_file.get(section), content.get(section)
        if not (inspect.isclass(field.annotation) and issubclass(field.annotation, Choice)):
            continue
        if f"{section}.name" not in overridden:
            continue
        if not (isinstance(before, dict) and isinstance(now, dict)):
            continue
        known = field.annotation.model_fields
        old = before.get("name", before.get("method", known["name"].default))
        name = now.get("name")  # gone where a later override is the whole section
        if name is None or old == name:
            continue
        strange = [
            key for key in before if key not in known and f"{section}.{key}" not in overridden
        ]
        for key in strange:
            now.pop(key, None)
        options = [key for key in strange if key != "method"]
        if options:
            log.info(
                "%s.name = %s: the options of %s in the file do not count: %s",
                section,
                name,
                old,
                ", ".join(options),
            )


def _holds(tree: object, path: Sequence[str]) -> bool:
    for part in path:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def _assign(tree: dict[str, Any], path: Sequence[str], value: object) -> bool:
    for part in path[:-1]:
        if tree.get(part) is None:  # left out, or null
            tree[part] = {}
        tree = tree[part]
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
            text = f"unknown key{nearest(path[-1], _fields(path[:-1]))}"
        elif item["type"] == "missing":
            text = "missing"
        elif item["type"] == "value_error" and _fields(path):
            # Of several keys of a section: the message names them.
            text = lower(item["msg"].removeprefix("Value error, "))
        else:
            text = f"= {item['input']!r}: {lower(item['msg'].removeprefix('Value error, '))}"
            text += IN_QUOTES if needs_quotes(item) else ""
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
        model = None if field is None else field.annotation
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            return []
    return list(model.model_fields)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
