"""Objects on their way between ranks: large tensors in them travel as they lie, so that none is
copied into a message, and a receiver has each once.
"""

import io
import pickle
from typing import Any

import torch
from torch import Tensor

LARGE = 1 << 20  # bytes; smaller ones are a part of the message


def packed(value: object) -> tuple[bytes, list[Tensor]]:
    """Return a message and the large tensors, contiguous on the host, that travel beside it."""
    file = io.BytesIO()
    packer = _Packer(file, protocol=pickle.HIGHEST_PROTOCOL)
    packer.dump(value)
    return file.getvalue(), packer.tensors


def unpacked(message: Any) -> tuple[Any, list[Tensor]]:
    """Return what a message holds, and its large tensors, which are to be filled."""
    unpacker = _Unpacker(io.BytesIO(message))
    value = unpacker.load()
    return value, list(unpacker.tensors.values())


class _Packer(pickle.Pickler):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, obj: object) -> tuple[int, torch.Size, torch.dtype] | None:
        """Return what stands for a large tensor in the message: one that is met again is the same
        there, too.
        """
        if type(obj) is not Tensor or not obj.is_cpu or obj.layout != torch.strided:
            return None
        if obj.nbytes < LARGE or obj.requires_grad:
            return None
        place = self._places.setdefault(id(obj), len(self.tensors))
        if place == len(self.tensors):
            self.tensors.append(obj.resolve_conj().resolve_neg().contiguous())
        return place, obj.shape, obj.dtype


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: dict[int, Tensor] = {}

    def persistent_load(self, pid: tuple[int, torch.Size, torch.dtype]) -> Tensor:
        place, shape, dtype = pid
        return self.tensors.setdefault(place, torch.empty(shape, dtype=dtype))
