"""Read a pickle of plain containers and byte arrays without running anything that it asks for.

A pickle is a program: ``pickle.load`` imports and calls what the file names. This unpickler imports
nothing. The few names that describe an array of uint8 stand for the functions below; every other
name is refused. Texts of Python 2 come as str, one character a byte (latin1).
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

LONGEST_NAME = 80  # of what is refused, in a message
MOST_AXES = 4


def read_plain_pickle(content: bytes, origin: str) -> object:
    """Return the object of a pickle; an array, alone or as the value of a dict, comes as a tensor.

    Keys of dicts may be bytes, as a Python 2 text is under some protocols; they come as str.

    Raises
    ------
    ValueError
        If the pickle is damaged or asks for anything else; starts with ``origin``, the file.
    """
    try:
        result = _PlainUnpickler(_Lines(content), encoding="latin1").load()
    except _RefusedError as error:
        raise ValueError(
            f"{origin}: the pickle asks for {error}: refused, nothing of it was run; "
            "expected lists, dicts, texts, numbers and uint8 arrays; get the official file"
        ) from error
    except Exception as error:  # a damaged pickle fails in the unpickler in ways nobody lists
        raise ValueError(
            f"{origin}: not a readable pickle ({' '.join(str(error).split()) or type(error)}); "
            "a download that was cut off looks like this; get the file again"
        ) from error
    if isinstance(result, dict):
        return {_text(key): _tensor(value) for key, value in result.items()}
    return _tensor(result)


class _RefusedError(Exception):
    """What the pickle asks for and does not get."""


class _Lines(io.BytesIO):
    def readline(self, size: int | None = -1) -> bytes:
        """Return a whole line: the unpickler would take the rest of a file that ends in a name."""
        line = super().readline(size)
        if not line.endswith(b"\n"):
            raise EOFError("it ends within a name")
        return line


class _Bytes8:
    """The element type uint8."""

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and alignment, which bytes do not have."""


class _Array:
    """An array under construction."""

    value: Tensor

    def __setstate__(self, state: Any) -> None:
        """Take the shape and the bytes."""
        _, shape, element, by_column, values = state
        if not isinstance(element, _Bytes8) or by_column:
            raise _RefusedError("an array that is not of uint8, row by row")
        self.value = _bytes_tensor(values, shape)


# The unpickler in Python: that in C makes room for any index of its memo that a file names.
class _PlainUnpickler(pickle._Unpickler):
    # What the class has, and its types do not say.
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[object], None]
    load_setitem: Callable[[], None]
    load_setitems: Callable[[], None]
    load_dict: Callable[[], None]

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        maker = _MAKERS.get(f"{module}.{name}")
        if maker is None:
            raise _RefusedError(f"{module}.{name}"[:LONGEST_NAME])
        return partial(maker)  # a pickle can set attributes of what it gets: its own object

    def persistent_load(self, pid: object) -> object:
        raise _RefusedError(f"the object {pid!r} of another file")

    def read_bytearray(self) -> None:
        """Take what the file holds; the unpickler would first make room for any length it names."""
        length = int.from_bytes(self.read(8), "little")
        content = self.read(length)
        if len(content) != length:
            raise EOFError("it ends within an array")
        self.append(bytearray(content))

    def refuse_set(self) -> None:
        raise _RefusedError("a set")

    def read_item(self) -> None:
        self._check_keys(self.stack[-2:-1])
        self.load_setitem()

    def read_items(self) -> None:
        self._check_keys(self.stack[::2])
        self.load_setitems()

    def read_dict(self) -> None:
        self._check_keys(self.stack[::2])
        self.load_dict()

    def _check_keys(self, keys: Sequence[object]) -> None:
        """Refuse keys that hold other values: hashing nested ones overflows the stack of C."""
        others = {type(key).__name__ for key in keys if not isinstance(key, str | bytes | int)}
        if others:
            raise _RefusedError(f"a dict with keys of type {', '.join(sorted(others))}")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: read_bytearray,
        pickle.SETITEM[0]: read_item,
        pickle.SETITEMS[0]: read_items,
        pickle.DICT[0]: read_dict,
        pickle.EMPTY_SET[0]: refuse_set,
        pickle.FROZENSET[0]: refuse_set,
    }


def _reconstruct(kind: object, shape: object, _: object) -> _Array:
    if shape != (0,) or getattr(kind, "func", None) is not _ndarray:
        raise _RefusedError("an array of another class")
    return _Array()


def _from_buffer(values: object, element: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.__setstate__((1, shape, element, order != "C", values))
    return array


def _ndarray(*_: object) -> object:
    raise _RefusedError("a call of numpy.ndarray")


def _dtype(name: object, *_: object) -> _Bytes8:
    if name != "u1":
        raise _RefusedError(f"an array of numpy.dtype {name!r}")
    return _Bytes8()


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError("a call of _codecs.encode with other arguments")
    return text.encode("latin1")


def _bytes_tensor(values: Any, shape: Any) -> Tensor:
    content = values.encode("latin1") if isinstance(values, str) else values
    if not isinstance(content, bytes | bytearray):
        raise ValueError(f"an array whose values are of type {type(values).__name__}")
    if len(shape) > MOST_AXES or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"an array whose shape is not made of at most {MOST_AXES} numbers")
    if math.prod(shape) != len(content):
        raise ValueError(f"an array of shape {shape} with {len(content)} values")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


def _text(key: object) -> object:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _tensor(value: object) -> object:
    return value.value if isinstance(value, _Array) else value


# The names of an array, of numpy 1 and 2; protocol 5 writes its bytes as a buffer.
_MAKERS: dict[str, Callable[..., object]] = {
    "numpy.ndarray": _ndarray,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    **{f"numpy.{core}.multiarray._reconstruct": _reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _from_buffer for core in ("core", "_core")},
}
