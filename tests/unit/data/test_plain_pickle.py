"""Pickles are read without being run: the values of honest ones, and attacks that do nothing."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpc_bnn.data.images.plain_pickle import read_plain_pickle

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    255,
    -1,
    70_000,
    2**40,
    -(2**70),
    1.5,
    "",
    "text with \u00e4",
    [],
    (),
    {},
    [1, [2, (3, 4, 5, 6)]],
    {"a": 1, "b": [True, None]},
    list(range(2500)),
    {f"key {i}": i for i in range(1500)},
    (1,),
    (1, 2),
    (1, 2, 3),
]


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values(protocol: int) -> None:
    for value in VALUES:
        assert read_plain_pickle(pickle.dumps(value, protocol=protocol), "file") == value


def test_bytes_as_python_3_writes_them_in_protocol_2() -> None:
    content = bytes(range(256))
    assert read_plain_pickle(pickle.dumps({b"k": content}, protocol=2), "file") == {"k": content}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("shape", [(6,), (3, 2, 1)])
def test_arrays_become_tensors(shape: tuple[int, ...], protocol: int) -> None:
    array = (np.arange(np.prod(shape)) + 250).astype(np.uint8).reshape(shape)
    alone = read_plain_pickle(pickle.dumps(array, protocol=protocol), "file")
    inside = read_plain_pickle(pickle.dumps({"data": array}, protocol=protocol), "file")
    assert isinstance(inside, dict)
    for tensor in (alone, inside["data"]):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.uint8
        assert torch.equal(tensor, torch.from_numpy(array))


def test_repeated_values_are_remembered() -> None:
    name = "said twice"
    assert read_plain_pickle(pickle.dumps([name, name], protocol=2), "file") == [name, name]


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2)), np.zeros(3, dtype=np.int8), np.asfortranarray(np.ones((2, 3), np.uint8))],
    ids=["float64", "int8", "by column"],
)
def test_other_arrays_are_refused(array: Any) -> None:
    for protocol in (2, 5):
        with pytest.raises(ValueError, match=r"^file: the pickle asks for .*refused"):
            read_plain_pickle(pickle.dumps(array, protocol=protocol), "file")


class _Runs:
    """Calls a function on being unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def text(value: str) -> bytes:
    """Return the instruction of Python 2 that puts a text on the stack."""
    return b"U" + bytes([len(value)]) + value.encode("latin1")


def attacks(target: Path) -> dict[str, bytes]:
    """Return pickles that make the file ``target`` when they are run."""
    touch = f"open({str(target)!r}, 'w')"
    command = f"touch {target}"
    call = b"cposix\nsystem\n" + text(command) + b"\x85R"
    return {
        "system": pickle.dumps(_Runs(os.system, command), protocol=2),
        "eval": pickle.dumps(_Runs(eval, touch), protocol=2),
        "newest protocol": pickle.dumps(_Runs(eval, touch), protocol=5),
        "open": pickle.dumps(_Runs(open, str(target), "w"), protocol=2),
        "inside a batch": pickle.dumps({"data": _Runs(eval, touch), "labels": [1]}, protocol=2),
        "before the end": pickle.dumps({"data": 1}, protocol=2)[:-1] + call + b"0.",
        "by hand": call + b".",
        "instance": b"(" + text(command) + b"iposix\nsystem\n.",
        "object": b"(cposix\nsystem\n" + text(command) + b"o.",
        "new object": b"\x80\x02cposix\nsystem\n" + text(command) + b"\x85\x81.",
        "state of an array": pickle.dumps(np.zeros(2, np.uint8), protocol=2)[:-2] + call + b"b.",
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
def test_nothing_of_a_pickle_is_run(name: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    attack = attacks(target)[name]
    with pytest.raises(ValueError, match=r"^batch: the pickle asks for .*nothing of it was run"):
        read_plain_pickle(attack, "batch")
    assert not target.exists()


@pytest.mark.parametrize("name", ["system", "eval", "by hand", "inside a batch"])
def test_the_attacks_are_real(name: str, tmp_path: Path) -> None:
    pickle.load(io.BytesIO(attacks(tmp_path / "made")[name]))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nload\n" + text("x") + b"\x85R.",
        b"cnumpy\ndtype\n" + text("O8") + b"K\x00K\x01\x87R.",
        b"c_codecs\nencode\n" + text("x") + text("zip") + b"\x86R.",
        b"c_codecs\nencode\nK\x01" + text("latin1") + b"\x86R.",
        b"c_codecs\ndecode\n" + text("x") + text("latin1") + b"\x86R.",
        b"cnumpy.core.multiarray\n_reconstruct\n"
        + text("x")
        + b"K\x00\x85"
        + text("b")
        + b"\x87R.",
        b"cnumpy\nndarray\n(K\x02tR.",
        b"Pid\n.",
    ],
)
def test_names_and_calls_beyond_an_array_of_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="refused"):
        read_plain_pickle(content, "file")


@pytest.mark.parametrize(
    "content",
    [text("x") + text("y") + b"\x85R.", b"\x82\x01.", b"cnumpy\ndtype\n)\x81."],
    ids=["call of a text", "extension", "class that is a function"],
)
def test_instructions_that_no_batch_needs_do_nothing(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a readable pickle"):
        read_plain_pickle(content, "file")


HONEST = pickle.dumps(
    {"labels": [3, 1], "data": np.arange(6, dtype=np.uint8).reshape(2, 3), "n": (1, "a", 2.5)},
    protocol=2,
)


def test_cut_off_anywhere() -> None:
    for length in range(len(HONEST)):
        with pytest.raises(ValueError, match=r"^file: not a readable pickle .*cut off"):
            read_plain_pickle(HONEST[:length], "file")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in a damaged text
@settings(max_examples=100, deadline=None)
@given(place=st.integers(0, len(HONEST) - 1), value=st.integers(0, 255))
@example(place=len(HONEST) - 2, value=ord("b"))
def test_damage_is_a_value_error_or_another_value(place: int, value: int) -> None:
    damaged = bytearray(HONEST)
    damaged[place] = value
    try:
        read_plain_pickle(bytes(damaged), "file")
    except ValueError as error:
        assert str(error).startswith("file: ")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in a damaged text
@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60))
def test_noise_is_a_value_error_or_a_value(content: bytes) -> None:
    try:
        read_plain_pickle(content, "file")
    except ValueError as error:
        assert str(error).startswith("file: ")


DEEP = b"K\x01" + b"\x85" * 2_000_000  # ((((1,),),),)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x80\x04}" + DEEP + b"K\x01s.", "a dict with keys of type tuple"),
        (b"\x80\x04}(" + DEEP + b"K\x01u.", "a dict with keys of type tuple"),
        (b"(" + DEEP + b"K\x01d.", "a dict with keys of type tuple"),
        (b"\x80\x04\x8f(" + DEEP + b"\x90.", "a set"),
        (b"\x80\x04(" + DEEP + b"\x91.", "a set"),
    ],
    ids=["item", "items", "dict", "set", "frozenset"],
)
def test_what_would_overflow_the_stack_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"asks for {said}: refused"):
        read_plain_pickle(content, "file")


def test_a_nested_value_is_freed_and_a_long_name_cut() -> None:
    assert isinstance(read_plain_pickle(b"\x80\x04" + DEEP + b".", "file"), tuple)
    with pytest.raises(ValueError) as caught:
        read_plain_pickle(b"c" + b"m" * 100_000 + b"\nn\n.", "file")
    assert len(str(caught.value)) < 400


def test_a_shape_of_very_many_numbers_is_refused() -> None:
    shape = b"(" + b"J\xff\xff\xff\x7f" * 100_000 + b"t"
    array = (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x01a" + b"cnumpy\ndtype\n" + text("u1") + b"\x85R"
        + shape + text("C") + b"tR."
    )  # fmt: skip
    with pytest.raises(ValueError, match="at most 4 numbers"):
        read_plain_pickle(array, "file")


def test_an_array_longer_than_the_file_takes_no_memory() -> None:
    """The unpickler would make room for it first."""
    content = b"\x80\x05\x96" + struct.pack("<Q", 1 << 34) + b"short."
    tracemalloc.start()
    with pytest.raises(ValueError, match="not a readable pickle"):
        read_plain_pickle(content, "file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_lengths_beyond_the_file_cost_no_memory() -> None:
    with pytest.raises(ValueError, match="not a readable pickle"):
        read_plain_pickle(b"T" + struct.pack("<i", 2**31 - 1) + b"short.", "file")
    assert read_plain_pickle(b"]r" + struct.pack("<I", 2**32 - 1) + b".", "file") == []
