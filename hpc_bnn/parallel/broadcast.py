"""Parameters become those of the first rank of an axis."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from hpc_bnn.parallel.engine import Axis, Engine

MESSAGE_BYTES = 64 << 20  # small tensors travel together; MPI counts bytes in a signed int


def broadcast_parameters(engine: Engine, state: Mapping[str, Tensor], *, axis: Axis) -> None:
    """Collective over the axis: overwrite the tensors of ``state`` with those of its first rank.

    They travel as bytes, so that any dtype does; the ranks' tensors have the same shapes.
    """
    contents, copies = [], []
    for _, tensor in sorted(state.items()):
        target = _without_repeats(tensor.detach())
        sent = target.resolve_conj().resolve_neg().contiguous()
        if sent is not target:
            copies.append((target, sent))
        contents += sent.view(-1).view(torch.uint8).split(MESSAGE_BYTES)
    for number, pieces in enumerate(_messages(contents)):
        message = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        engine.broadcast(message, axis=axis, name=f"parameters.{number}")
        if len(pieces) > 1:
            for piece, part in zip(pieces, message.split(list(map(len, pieces))), strict=True):
                piece.copy_(part)
    for target, sent in copies:
        target.copy_(sent)


def _messages(pieces: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Group bytes (n,) of at most a message each."""
    message: list[Tensor] = []
    size = 0
    for piece in pieces:
        if message and size + len(piece) > MESSAGE_BYTES:
            yield message
            message, size = [], 0
        message.append(piece)
        size += len(piece)
    if size:
        yield message


def _without_repeats(tensor: Tensor) -> Tensor:
    """Return the elements of an expanded tensor once, as a view that can be written to."""
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        if stride == 0 and size > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor
