"""Checks of what a settings file chooses by name against what there is, and of its options against
the signature of what was chosen.
"""

import contextlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from hpc_bnn.spelling import nearest

IN_QUOTES = (
    "; YAML takes an unquoted NO, off, null or 010 for a value that is no text: write a text in "
    'quotes, such as "NO" (\'key="NO"\' on the command line)'
)


def lower(text: str) -> str:
    """Return the text with its first letter in lower case."""
    return text[:1].lower() + text[1:]


def needs_quotes(error: Mapping[str, Any]) -> bool:
    """Tell whether an error of pydantic is about a value that may be meant as a text."""
    value, kind = error["input"], error["type"]
    if value is None or isinstance(value, bool):
        return kind in ("string_type", "path_type", "literal_error")
    return kind in ("string_type", "path_type") and isinstance(value, int | float)


def choose(section: str, name: str, choices: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a name, or None."""
    if name in choices:
        return None
    return (
        f"{section}.name = {name!r}: expected one of {', '.join(choices)}{nearest(name, choices)}"
    )


@dataclass(frozen=True)
class Option:
    """A keyword argument that a settings file can hold."""

    type: TypeAdapter[Any]
    default: Any

    @property
    def is_required(self) -> bool:
        """True where there is no default."""
        return self.default is inspect.Parameter.empty


def known_options(
    function: Callable[..., Any], *, given: Collection[str] = ()
) -> dict[str, Option]:
    """Return the keyword arguments of ``function`` that a settings file can hold, but for those
    that the program supplies itself: one annotated with a tensor is not.
    """
    target = function.__init__ if inspect.isclass(function) else function
    hints = get_type_hints(target, include_extras=True)
    known: dict[str, Option] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given or parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            continue
        with contextlib.suppress(PydanticSchemaGenerationError):
            known[name] = Option(TypeAdapter(hints.get(name, Any)), parameter.default)
    return known


def check_options(
    section: str,
    function: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    given: Collection[str] = (),
    beside: Collection[str] = (),
) -> list[str]:
    """Return what is wrong with ``options`` as keyword arguments of ``function``, one text an
    error.

    ``given`` are the arguments that the program supplies itself, ``beside`` the keys of the section
    that are no options.
    """
    options_of = known_options(function, given=given)
    known = {name: option.type for name, option in options_of.items()}
    required = [name for name, option in options_of.items() if option.is_required]
    problems = [
        f"{section}.{key}: unknown key{nearest(key, [*known, *beside])}; "
        f"known: {', '.join(known) or 'none'}"
        for key in options
        if key not in known
    ]
    problems += [f"{section}.{key}: missing" for key in required if key not in options]
    for key in options:
        if key in known and not _text_keys(options[key]):
            problems.append(f"{section}.{key} = {options[key]!r}: a key is no text{IN_QUOTES}")
        elif key in known:
            try:
                # As JSON: strict about types, yet a list may stand for a tuple and text for a path.
                known[key].validate_json(json.dumps(options[key], default=str), strict=True)
            except ValidationError as error:
                expected = "; ".join(sorted({e["msg"] for e in error.errors()}))
                hint = IN_QUOTES if any(map(needs_quotes, error.errors())) else ""
                problems.append(f"{section}.{key} = {options[key]!r}: {lower(expected)}{hint}")
    return problems


def _text_keys(value: object) -> bool:
    """Tell whether no mapping in a value has a key that JSON would make a text of, such as false;
    numbers may be keys.
    """
    if isinstance(value, dict):
        good = all(isinstance(key, str | int) and not isinstance(key, bool) for key in value)
        return good and all(map(_text_keys, value.values()))
    return not isinstance(value, list | tuple) or all(map(_text_keys, value))


def path_options(function: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    """Return the keys of ``options`` that are paths, by the signature of ``function``."""
    known = known_options(function)
    return [
        key
        for key, value in options.items()
        if isinstance(value, str) and value and key in known
        if '"format": "path"' in json.dumps(known[key].type.json_schema())
    ]


def absolute(path: str) -> str:
    """Return a path, or a pattern of such, from the root; an address of the network as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
