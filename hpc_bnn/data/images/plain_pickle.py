"""Read a pickle of plain containers and byte arrays without running anything that it asks for.

A pickle is a program: ``pickle.load`` imports and calls what the file names. Here the standard
library only takes the program apart (``pickletools``), and a stack of a few dozen lines builds
numbers, texts, bytes, lists, tuples, dicts with text keys and numpy arrays of uint8 from it. Every
other instruction, and every name but those that describe such an array, is refused.

The format is protocol 2, as Python 2 and ``pickle.dumps(..., protocol=2)`` write it; texts of
Python 2 come as str, one character a byte (latin1).
"""

from __future__ import annotations

import math
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names; it is compared, never imported."""

    text: str


@dataclass(eq=False)
class _Array:
    """An array under construction."""

    value: Tensor | None = None


@dataclass(frozen=True)
class _Bytes8:
    """The element type uint8."""


_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY, _DTYPE, _ENCODE = "numpy ndarray", "numpy dtype", "_codecs encode"
_ALLOWED = (*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE)
_MARK = object()


def read_plain_pickle(content: bytes, origin: str) -> object:
    """Return the object of a pickle; an array, alone or as the value of a dict, comes as a tensor.

    Raises
    ------
    ValueError
        If the pickle is damaged or asks for anything else; starts with ``origin``, the file.
    """
    try:
        return _Machine().run(content)
    except _Refused as error:
        raise ValueError(
            f"{origin}: the pickle asks for {error}: refused, nothing of it was run; expected "
            "lists, dicts, texts, numbers and uint8 arrays; get the official file"
        ) from error
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error) as error:
        raise ValueError(
            f"{origin}: not a readable pickle ({' '.join(str(error).split()) or type(error)}); a "
            "download that was cut off looks like this; get the file again"
        ) from error


class _Refused(Exception):
    """What the pickle asks for and does not get."""


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> object:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name == "STOP":
                break
            if name in _VALUES:
                self._stack.append(_VALUES[name](argument))
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            else:
                raise _Refused(f"the instruction {name}")
        (result,) = self._stack
        if isinstance(result, dict):
            return {key: _finished(value) for key, value in result.items()}
        return _finished(result)

    def pop(self) -> Any:
        top = self._stack.pop()
        if top is _MARK:
            raise ValueError("a mark where a value should be")
        return top

    def pop_to_mark(self) -> list[Any]:
        last = len(self._stack) - 1
        while self._stack[last] is not _MARK:
            last -= 1
            if last < 0:
                raise ValueError("no mark")
        items = self._stack[last + 1 :]
        del self._stack[last:]
        return items

    def top(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"a {type(self._stack[-1]).__name__} where a {kind.__name__} belongs")
        return self._stack[-1]

    def mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def remember(self, place: Any) -> None:
        self._memo[int(place)] = self._stack[-1]

    def recall(self, place: Any) -> None:
        self._stack.append(self._memo[int(place)])

    def tuple_of(self, count: int) -> None:
        self._stack.append(tuple([self.pop() for _ in range(count)][::-1]))

    def tuple_to_mark(self, _: Any) -> None:
        self._stack.append(tuple(self.pop_to_mark()))

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes):
                raise ValueError(f"a dict key of type {type(key).__name__}")
            target[key if isinstance(key, str) else key.decode("latin1")] = value

    def name(self, argument: Any) -> None:
        if argument not in _ALLOWED:
            raise _Refused(str(argument).replace(" ", "."))
        self._stack.append(_Name(argument))

    def call(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        text = function.text if isinstance(function, _Name) else type(function).__name__
        if text in _RECONSTRUCT and arguments[:2] == (_Name(_NDARRAY), (0,)):
            self._stack.append(_Array())
        elif text == _DTYPE and arguments[0] == "u1":
            self._stack.append(_Bytes8())
        elif text == _ENCODE and isinstance(arguments[0], str) and arguments[1] == "latin1":
            self._stack.append(arguments[0].encode("latin1"))
        else:
            raise _Refused(f"a call of {text.replace(' ', '.')} with other arguments")

    def build(self, _: Any) -> None:
        state = self.pop()
        if isinstance(self._stack[-1], _Bytes8):
            return  # byte order and alignment, which bytes do not have
        array: _Array = self.top(_Array)
        _, shape, element, column_major, values = state
        if not isinstance(element, _Bytes8) or column_major:
            raise _Refused("an array that is not of uint8, row by row")
        if isinstance(values, str):
            values = values.encode("latin1")
        if not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("an array whose shape is not made of numbers")
        if math.prod(shape) != len(values):
            raise ValueError(f"an array of shape {shape} with {len(values)} values")
        array.value = torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape)


def _finished(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value


def _same(value: Any) -> Any:
    return value


# Instructions that put a value on the stack.
_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _same),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING", "BINUNICODE"), _same),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "EMPTY_TUPLE": lambda _: (),
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda machine, argument: None,
    "MARK": _Machine.mark,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "TUPLE": _Machine.tuple_to_mark,
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
