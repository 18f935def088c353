"""``hpc-bnn settings``: every key of a settings file, in words or as a JSON schema."""

import argparse
import json
import shutil
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.config import Choice, Settings
from hpc_bnn.config.describe import Key, option_keys, own_key, own_keys, summary
from hpc_bnn.data import AUGMENTATIONS, DATA_SETS, data_set
from hpc_bnn.fields.perturb import GIVEN_TO_PATTERNS, PATTERNS
from hpc_bnn.group import Group
from hpc_bnn.losses import LOSSES
from hpc_bnn.models import MODELS
from hpc_bnn.spelling import nearest
from hpc_bnn.train.run import build
from hpc_bnn.train.run.optimizers import OPTIMIZERS

Choices = Mapping[str, Callable[..., Any]]

NARROW, WIDE = 80, 120


def settings_command(options: argparse.Namespace, _: Group) -> tuple[list[str], int]:
    """Return what there is to set as lines of text, and the status."""
    if options.schema:
        return [json.dumps(schema(), indent=1)], 0
    width = min(max(shutil.get_terminal_size().columns, NARROW), WIDE)
    return list(_overview(width) if not options.section else _of(options.section, width)), 0


def choices() -> dict[str, tuple[Choices, Collection[str]]]:
    """Return what each section chooses from by name, and the arguments of those that are no
    options.
    """
    data = {name: data_set(name) for name in DATA_SETS}
    return {
        "posterior": (POSTERIORS, build.GIVEN_TO_POSTERIORS),
        "loss": (LOSSES, ()),
        "model": (MODELS, build.GIVEN_TO_MODELS),
        "data": (data, build.GIVEN_TO_DATA),
        "data.transform": (AUGMENTATIONS, ()),
        "optimizer": (OPTIMIZERS, build.GIVEN_TO_OPTIMIZERS),
        "perturb": (PATTERNS, GIVEN_TO_PATTERNS),
    }


def schema() -> dict[str, Any]:
    """Return the JSON schema of a settings file, options of all choices included."""
    whole = Settings.model_json_schema()
    whole["title"] = "Settings of a run of hpc_bnn"
    for section, (table, given) in choices().items():
        if section not in Settings.model_fields:
            continue
        record = whole["$defs"][class_of(section).__name__]
        names: dict[str, Any] = {"enum": list(table)}
        if section == "model":  # or the path of a class
            names = {"anyOf": [names, {"pattern": "^[\\w.]+:[\\w.]+$"}]}
        record["properties"]["name"] |= names
        record["allOf"] = [
            {
                "if": {"properties": {"name": {"const": name}}, "required": ["name"]},
                "then": {"properties": _properties(option_keys(function, given=given))},
            }
            for name, function in table.items()
        ]
    return whole


def _properties(keys: Collection[Key]) -> dict[str, Any]:
    return {key.name: {**key.schema, "description": key.meaning} for key in keys}


def class_of(section: str) -> type[Any]:
    """Return the class of a section of the settings."""
    annotation: Any = Settings.model_fields[section].annotation
    options = [each for each in getattr(annotation, "__args__", (annotation,)) if each]
    found: type[Any] = options[0]
    return found


def _overview(width: int) -> Iterator[str]:
    yield "A settings file has these sections; hpc-bnn settings SECTION shows all about one."
    yield ""
    for name, field in Settings.model_fields.items():
        if name == "seed":
            yield from _row(name, field.description or "", width)
            continue
        section = class_of(name)
        text = summary(section)
        if issubclass(section, Choice):
            text += f" name: {' | '.join(choices()[name][0])}"
        yield from _row(name, text, width)
        if name == "data":
            names = " | ".join(AUGMENTATIONS)
            yield from _row("data.transform", f"Augmentation. name: {names}", width)
    yield ""
    yield "Such as: hpc-bnn settings train; hpc-bnn settings posterior.ensemble"


def _of(name: str, width: int) -> Iterator[str]:
    """Yield all about ``SECTION``, ``SECTION.CHOICE`` or ``SECTION.KEY``."""
    known = choices()
    if name == "seed":
        yield from _key(name, own_key(Settings, name), width)
        return
    sections = dict.fromkeys([*(each for each in Settings.model_fields if each != "seed"), *known])
    section, _, part = (name, "", "") if name in sections else name.rpartition(".")
    if section not in sections:
        raise ValueError(
            f"{name}: there is no such section; expected one of {', '.join(sections)}"
            f"{nearest(name, sections)}"
        )
    own = own_keys(class_of(section)) if section in Settings.model_fields else []
    table, given = known.get(section, ({}, ()))
    parts = [*table, *(key.name for key in own)]
    if part and part not in parts:
        raise ValueError(
            f"{name}: there is no such key or choice of {section}; expected one of "
            f"{', '.join(parts)}{nearest(part, parts)}"
        )
    if own and not part:
        yield f"{section}: {summary(class_of(section))}"
        yield ""
    for key in own:
        if part in ("", key.name):
            if key.name == "name" and table:
                key = replace(key, kind=" | ".join(table))
            yield from _key(f"{section}.{key.name}", key, width)
    for each, function in table.items():
        if not part:
            yield ""
        if part in ("", each):
            yield from _keys(f"{section}: {{name: {each}}}", function, given, width)


def _keys(
    title: str, function: Callable[..., Any], given: Collection[str], width: int
) -> Iterator[str]:
    yield from textwrap.wrap(f"{title}  {summary(function)}", width, subsequent_indent="    ")
    keys = option_keys(function, given=given)
    for key in keys:
        yield from _key(key.name, key, width)
    if not keys:
        yield "  no further keys"


def _key(name: str, key: Key, width: int) -> Iterator[str]:
    yield f"  {name}: {key.default}    ({key.kind})"
    yield from textwrap.wrap(key.meaning, width, initial_indent=" " * 6, subsequent_indent=" " * 6)


def _row(name: str, text: str, width: int) -> Iterator[str]:
    indent = " " * 18
    yield from textwrap.wrap(text, width, initial_indent=f"  {name:16s}", subsequent_indent=indent)
