"""YAML as people write it: values mean what they say, and a text that is a trap is refused at once.

PyYAML reads YAML 1.1, where 010 is eight, 1:30 ninety and 1e-3 a text. Here a number is decimal
unless it starts with 0x or 0b, may be written 1e-3 or 1_000, and times and dates are texts as they
stand. yes, no, on, off, true and false are as in YAML 1.1.

An alias stands for a copy of what it names, so a few lines can hold more values than memory does;
before anything is built, values are counted as if they were copied, and a text that holds too many,
or too deep, is refused.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from hpc_bnn.config.settings import SettingsError

MOST_CHARACTERS = 1 << 20
MOST_VALUES = 10_000
MOST_LEVELS = 30
MOST_DIGITS = 70  # that are looked at; 0b and 64 bits are fewer
MOST_INTEGER = 1 << 63  # what tensors hold

_INTEGER = r"[-+]?(?:0x[0-9a-fA-F]+|0b[01]+|\d+(?:_\d+)*)"
_DIGITS = r"\d+(?:_\d+)*"
_FLOAT = (
    rf"[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?\d+)?|{_DIGITS}[eE][-+]?\d+"
    r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_REPLACED = ("int", "float", "timestamp", "value")
_REFUSED = ("binary", "timestamp", "omap", "pairs", "set")  # tags of values that no settings hold
_TAG = "tag:yaml.org,2002:"


class TrapError(yaml.YAMLError):
    """A text that is YAML, but of a kind that no settings need."""


class _Loader(yaml.SafeLoader):
    """Reads the numbers described above."""

    def read_integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        base = {"0x": 16, "0b": 2}.get(text.lstrip("+-")[:2], 10)
        value = int(text, base) if len(text) <= MOST_DIGITS else MOST_INTEGER
        if abs(value) >= MOST_INTEGER:
            raise TrapError(f"an integer of more than 64 bits{_place(node)}")
        return value


class Dumper(yaml.SafeDumper):
    """Quotes the texts that would be read as something else, here or by YAML 1.1."""


def _resolvers(kept: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the type of a plain value by its first character."""
    tags = {_TAG + kind for kind in _REPLACED}
    return {first: [r for r in found if r[0] not in tags] for first, found in kept.items()}


_Loader.yaml_implicit_resolvers = _resolvers(yaml.SafeLoader.yaml_implicit_resolvers)
_Loader.yaml_constructors = {
    tag: build
    for tag, build in yaml.SafeLoader.yaml_constructors.items()
    if tag not in {_TAG + kind for kind in _REFUSED}
}
_Loader.add_constructor(f"{_TAG}int", _Loader.read_integer)
for _kind in (_Loader, Dumper):
    for _name, _pattern in (("int", _INTEGER), ("float", _FLOAT)):
        _kind.add_implicit_resolver(
            _TAG + _name, re.compile(rf"(?:{_pattern})$"), list("-+.0123456789")
        )


def read_yaml(path: Path) -> Any:
    """Return what a file holds; see ``parse``.

    Raises
    ------
    SettingsError
        If it is not YAML, or a trap.
    """
    if path.stat().st_size > MOST_CHARACTERS:
        raise SettingsError(
            [f"{path}: {path.stat().st_size} bytes; expected at most {MOST_CHARACTERS} of YAML"]
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
    except TrapError as error:
        raise SettingsError([f"{path}: {error}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error


def parse(text: str) -> Any:
    """Return what a text of YAML holds: texts, numbers, true and false, null, lists and mappings.

    Raises
    ------
    TrapError
        If it holds more than settings can need, one key of a mapping twice, or an alias as a key.
    yaml.YAMLError
        If it is not YAML.
    """
    if len(text) > MOST_CHARACTERS:
        raise TrapError(f"{len(text)} characters; expected at most {MOST_CHARACTERS}")
    _check(text)
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (ValueError, TypeError, AttributeError) as error:  # of a tag, such as !!int word
        raise yaml.YAMLError(str(error)) from error


class _Open:
    """A list or mapping that has not ended: what it holds so far."""

    def __init__(self, event: yaml.CollectionStartEvent) -> None:
        self.anchor: str | None = event.anchor
        self.values = self.levels = 1
        self.children = 0
        self.keys: set[str] | None = set() if isinstance(event, yaml.MappingStartEvent) else None


def _check(text: str) -> None:
    """Refuse a text by its events, before a value is built."""
    inside: list[_Open] = []
    known: dict[str | None, tuple[int, int]] = {}  # values and levels of what an anchor names
    for event in yaml.parse(text, Loader=_Loader):
        values = levels = 1
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append(_Open(event))
        elif isinstance(event, yaml.CollectionEndEvent):
            ended = inside.pop()
            values, levels = ended.values, ended.levels
            known[ended.anchor] = values, levels
        elif isinstance(event, yaml.ScalarEvent):
            known[event.anchor] = 1, 1
            _check_key(inside, event)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in [each.anchor for each in inside]:
                raise TrapError(f"*{event.anchor} stands inside of what it names{_place(event)}")
            if _is_key(inside):
                raise TrapError(f"the alias *{event.anchor} is a key{_place(event)}; write it out")
            values, levels = known.get(event.anchor, (1, 1))
        else:
            continue
        if inside and not isinstance(event, yaml.CollectionStartEvent):
            parent = inside[-1]
            parent.values, parent.levels = parent.values + values, max(parent.levels, levels + 1)
            parent.children += 1
            values, levels = parent.values, parent.levels + len(inside) - 1
        if values > MOST_VALUES or max(levels, len(inside)) > MOST_LEVELS:
            raise TrapError(
                f"more than {MOST_VALUES} values, every alias counted as what it names, or more "
                f"than {MOST_LEVELS} levels{_place(event)}"
            )


def _check_key(inside: list[_Open], event: yaml.ScalarEvent) -> None:
    """Refuse the second of two equal keys of a mapping, which would silently win."""
    keys = inside[-1].keys if _is_key(inside) else None
    if keys is None:
        return
    if event.value in keys and event.value != "<<":
        raise TrapError(f"the key {event.value} is there twice{_place(event)}; leave one out")
    keys.add(event.value)


def _is_key(inside: list[_Open]) -> bool:
    """Tell whether what comes next is a key of a mapping."""
    return bool(inside) and inside[-1].keys is not None and not inside[-1].children % 2


def _place(of: yaml.Event | yaml.Node) -> str:
    mark: Any = of.start_mark
    return f" at line {mark.line + 1}, column {mark.column + 1}"
