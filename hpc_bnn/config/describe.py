"""What there is to set: every key with its type, its default and its meaning, in words.

The meaning of a section's own keys stands in ``settings``, that of the options of what a section
chooses by name in the docstring of what is chosen, under "Parameters".
"""

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter

from hpc_bnn.config.options import known_options

REQUIRED = "required"
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
WORDS = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true | false"}


@dataclass(frozen=True)
class Key:
    """One key of a section.

    Attributes
    ----------
    kind, default
        Its type in words; its default as YAML writes it, or "required".
    meaning
        One sentence.
    schema
        JSON schema of its values.
    """

    name: str
    kind: str
    default: str
    meaning: str
    schema: Mapping[str, Any]


def own_keys(section: type[BaseModel]) -> list[Key]:
    """Return the keys that every choice of a section has."""
    return [own_key(section, name) for name in section.model_fields]


def own_key(section: type[BaseModel], name: str) -> Key:
    """Return one key of a section."""
    field = section.model_fields[name]
    annotation: Any = field.rebuild_annotation()
    schema = TypeAdapter(annotation).json_schema()
    value = field.get_default(call_default_factory=True)
    default = REQUIRED if field.is_required() else in_yaml(value)
    return Key(name, kind(schema), default, field.description or "", schema)


def option_keys(function: Callable[..., Any], *, given: Collection[str] = ()) -> list[Key]:
    """Return the options of what a section chooses; ``given`` are no options."""
    meanings = parameter_texts(function)
    keys = []
    for name, option in known_options(function, given=given).items():
        schema = option.type.json_schema()
        default = REQUIRED if option.is_required else in_yaml(option.default)
        keys.append(Key(name, kind(schema), default, meanings.get(name, ""), schema))
    return keys


def kind(schema: Mapping[str, Any]) -> str:
    """Return the type that a JSON schema describes, in words."""
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(kind(each) for each in schema["anyOf"]))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    what = schema.get("type", "")
    if what == "null":
        return "null"
    if what == "array":
        items = schema.get("prefixItems") or [schema.get("items") or {}]
        return f"list of {', '.join(kind(each) or 'anything' for each in items)}"
    if what == "object":
        values = schema.get("additionalProperties")
        return f"map to {kind(values)}" if isinstance(values, dict) else "map"
    limits = [
        text.format(schema[key] if isinstance(schema[key], int) else f"{schema[key]:g}")
        for key, text in LIMITS.items()
        if key in schema and abs(schema[key]) != float("inf")
    ]
    return f"{WORDS.get(what, 'anything')}{' ' if limits else ''}{', '.join(limits)}"


def in_yaml(value: object) -> str:
    """Return a default as a settings file writes it."""
    if isinstance(value, str) and value:
        return value
    plain = json.loads(json.dumps(value, default=str)) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def summary(function: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring."""
    text = inspect.getdoc(function) or ""
    return " ".join(text.partition("\n\n")[0].replace("``", "").split())


def parameter_texts(function: Callable[..., Any]) -> dict[str, str]:
    """Return the text of each parameter in a docstring; where a class refers to one that it is
    derived from ("As of", "As for"), the text there.
    """
    texts: dict[str, str] = {}
    for owner in inspect.getmro(function) if inspect.isclass(function) else (function,):
        for name, text in _parameters(owner.__doc__ or ""):
            if name not in texts or texts[name].startswith("As "):
                texts[name] = text
    return texts


def _parameters(doc: str) -> Iterator[tuple[str, str]]:
    _, header, rest = inspect.cleandoc(doc).partition("Parameters\n----------\n")
    if not header:
        return
    body = re.split(r"\n\n[A-Z]\w+\n-+\n", rest)[0]
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:[ ]+.*(?:\n|$)|\n)+)", body, re.MULTILINE):
        for name in names.split(","):
            yield name.strip(), " ".join(text.replace("``", "").split())
