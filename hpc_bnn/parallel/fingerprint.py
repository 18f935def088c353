"""Numbers of 64 bits that stand for tensors and values where ranks compare what they hold.

A fingerprint is the sum, in wrapping int64, of each element's bits mixed with its position by a
one-to-one function: equal tensors have equal fingerprints on every rank, a change of one element
always changes it, and several changes (swaps, signs) cancel with probability 2**-64. Without the
mixing, two changed signs of float64 would cancel always. Source of the mixer: Steele, Lea, Flood
2014, doi:10.1145/2660193.2660195 (splitmix64).
"""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

# complex128 counts as two elements.
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}
# Odd numbers of splitmix64, as signed integers.
_STRIDE = 0x9E3779B97F4A7C15 - (1 << 64)
_ROUNDS = (
    (30, 0xBF58476D1CE4E5B9 - (1 << 64)),
    (27, 0x94D049BB133111EB - (1 << 64)),
    (31, 1),
)
_PIECE = 1 << 18  # elements that are mixed at once: in the cache of a core, few calls on a GPU


def fingerprint(tensor: Tensor) -> int:
    """Return a 64-bit fingerprint of the bits and positions of ``tensor``, of any dtype."""
    # Conjugate and negative views are flags beside the bits.
    values = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1)
    bits = values.view(_BITS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for first in range(0, len(bits), _PIECE):
        mixed = bits[first : first + _PIECE].to(torch.int64)
        mixed = mixed + torch.arange(first, first + len(mixed), device=bits.device) * _STRIDE
        for shift, factor in _ROUNDS:
            # torch shifts the sign in from the left; the mask makes it a shift of unsigned bits.
            mixed = (mixed ^ (mixed >> shift & ((1 << 64 - shift) - 1))) * factor
        total += mixed.sum()
    return int(total)


def fingerprint_of(fingerprints: Iterable[int]) -> int:
    """Return one fingerprint of several in their order."""
    return fingerprint(torch.tensor(list(fingerprints), dtype=torch.int64))


def digest(value: object) -> int:
    """Return 60 bits that are the same in every process for values of the same ``repr``."""
    content = hashlib.blake2b(repr(value).encode(), digest_size=8).digest()
    return int.from_bytes(content, "little") >> 4
