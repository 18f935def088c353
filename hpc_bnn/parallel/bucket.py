"""Gradients that travel together: one contiguous row of numbers for those of several parameters.

A gradient of float32 or float64 is moved into its bucket and lives there from then on, so that it
is copied once; others are rounded back when the sum is there.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hpc_bnn.parallel.engine import Axis, Compression, Engine, Handle
from hpc_bnn.parallel.fingerprint import digest

MOST_BYTES = 25 << 20  # of a bucket, unless one gradient is larger
LEAST_BYTES = 1 << 20  # below, a reduction costs the same
BUCKETS = 8  # so many, where sizes allow: most of them travel while backward still runs
NAME_LENGTH = 200
WIRE = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Kind(NamedTuple):
    """What gradients of one bucket have in common: the dtype in which they travel, the axes over
    which they are summed one after the other, and where they lie.
    """

    wire: torch.dtype
    axes: tuple[Axis, ...]
    device: torch.device


def kind_of(parameter: nn.Parameter, axes: tuple[Axis, ...], compression: Compression) -> Kind:
    """Return how the gradient of a parameter travels: as real numbers of at least float32, unless
    they are compressed.
    """
    wide = torch.promote_types(_real(parameter.dtype), torch.float32)
    return Kind(WIRE.get(compression, wide), axes, parameter.device)


def fill_buckets(
    named: Iterable[tuple[str, nn.Parameter]], kinds: Callable[[str], Kind]
) -> list["Bucket"]:
    """Return buckets of the parameters in their order, which must be the same on all ranks."""
    named = list(named)
    sizes = {name: _count(p) * kinds(name).wire.itemsize for name, p in named}
    limit = min(MOST_BYTES, max(LEAST_BYTES, sum(sizes.values()) // BUCKETS))
    filled: list[tuple[Kind, list[tuple[str, nn.Parameter]]]] = []
    open_: dict[Kind, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named:
        kind = kinds(name)
        members = open_.setdefault(kind, [])
        if members and sum(sizes[other] for other, _ in members) + sizes[name] > limit:
            filled.append((kind, members))
            members = open_[kind] = []
        members.append((name, parameter))
    filled += open_.items()
    return [Bucket(number, kind, members) for number, (kind, members) in enumerate(filled)]


class Bucket:
    """The gradients of some parameters on their way.

    Attributes
    ----------
    named
        The parameters by name.
    """

    def __init__(self, number: int, kind: Kind, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        self.named, self._kind = dict(named), kind
        # Ranks whose buckets differ must not sum them.
        same = digest([(name, _count(p)) for name, p in named])
        self._name = f"gradients.{number}.{same:x}: {', '.join(self.named)[:NAME_LENGTH]}"
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        self._size = 0
        for name, parameter in named:
            # Strides of a dense tensor, such as channels last; others lie in C order.
            strides = torch.empty_like(parameter, device="meta").stride()
            self._places[name] = self._size, strides
            self._size += _count(parameter)
        self._buffer: Tensor | None = None
        self._address = 0
        self._filled: set[str] = set()
        self._unused: set[str] = set()
        self._handle: Handle | None = None
        self._stage = 0

    @property
    def is_full(self) -> bool:
        """True where every gradient is there."""
        return len(self._filled) == len(self.named)

    def put(self, name: str) -> None:
        """Take up the gradient of a parameter, zeros where it has none."""
        parameter = self.named[name]
        if parameter.grad is None:  # unused here: the other ranks still expect numbers
            parameter.grad = torch.zeros_like(parameter)
        elif parameter.grad.layout != torch.strided:
            parameter.grad = parameter.grad.to_dense()
        gradient = parameter.grad
        self._filled.add(name)
        is_whole = len(self.named) == 1 and gradient.stride() == self._places[name][1]
        if is_whole and self._may_live_here(gradient):
            self._buffer = gradient.as_strided((self._size,), (1,))
            return
        place = self._place(name, gradient)
        if place.data_ptr() != gradient.data_ptr():
            place.copy_(_as_real(gradient))
            if self._may_live_here(gradient):
                parameter.grad = place

    def fill_up(self, unused: Iterable[str]) -> bool:
        """Put zeros where gradients are missing, and tell whether there is anything to reduce.

        unused: parameters that no rank has a gradient for: they are left without one.
        """
        self._unused = set(unused) & self.named.keys()
        if len(self._unused) == len(self.named):
            return False
        for name in self.named.keys() - self._filled - self._unused:
            self.put(name)
        for name in self._unused:
            self._place(name, None).zero_()
        return True

    def start(self, engine: Engine) -> None:
        """Collective: begin the first reduction."""
        self._stage = 0
        self._reduce(engine)

    def advance(self, engine: Engine) -> bool:
        """Collective: wait for the reduction that was begun and begin the next; False: none is."""
        if self._handle is None:
            return False
        self._handle.wait()
        self._handle = None
        self._stage += 1
        if self._stage == len(self._kind.axes):
            return False
        self._reduce(engine)
        return True

    def take_out(self, divisor: int) -> None:
        """Leave the sums divided by ``divisor`` in the gradients."""
        if self._buffer is None:
            return
        is_wide = self._kind.wire.itemsize >= 4
        if is_wide and divisor > 1:
            self._buffer.div_(divisor)
        for name in self.named.keys() - self._unused:
            gradient = self.named[name].grad
            assert gradient is not None
            if not self._may_live_here(gradient):
                values = self._place(name, gradient)
                _as_real(gradient).copy_(values if is_wide else values.float().div_(divisor))
        self.clear()

    def clear(self) -> None:
        """Forget the gradients, having waited for a reduction that was begun."""
        if self._handle is not None:
            self._handle.wait()
        if self._buffer is not None:
            self._address = self._buffer.data_ptr()
        self._handle, self._buffer = None, None
        self._filled, self._unused = set(), set()

    def _may_live_here(self, gradient: Tensor) -> bool:
        return gradient.dtype == self._kind.wire and gradient.element_size() >= 4

    def _reduce(self, engine: Engine) -> None:
        axis = self._kind.axes[self._stage]
        if self._buffer is not None and self._size:
            name = f"{axis}.{self._name}"
            self._handle = engine.all_reduce_async(self._buffer, axis=axis, name=name)

    def _place(self, name: str, gradient: Tensor | None) -> Tensor:
        """Return where the gradient of a parameter lies, as real numbers."""
        if self._buffer is None:
            self._buffer = self._new_buffer(gradient)
        parameter, (first, strides) = self.named[name], self._places[name]
        if parameter.is_complex():
            part = self._buffer[first : first + _count(parameter)]
            return part.view(*parameter.shape, 2)
        return self._buffer.as_strided(parameter.shape, strides, first)

    def _new_buffer(self, gradient: Tensor | None) -> Tensor:
        """Return memory for the numbers: that of the step before, where gradients still live there
        because passes add to them.
        """
        if gradient is not None and self._may_live_here(gradient):
            storage = gradient.untyped_storage()
            same_size = storage.nbytes() == self._size * self._kind.wire.itemsize
            if same_size and storage.data_ptr() == self._address:
                return gradient.as_strided((self._size,), (1,), 0)
        return torch.empty(self._size, dtype=self._kind.wire, device=self._kind.device)


def _count(parameter: Tensor) -> int:
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def _real(dtype: torch.dtype) -> torch.dtype:
    return dtype.to_real() if dtype.is_complex else dtype


def _as_real(gradient: Tensor) -> Tensor:
    return torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient
