"""Guards: one small collective proves that the ranks still do what the contract says.

    parameters     equal on all ranks; per-sample ones equal along the data axis, different along
                   the sample axis
    batch          equal along the sample axis, different along the data axis
    weight draws   different along the sample axis

A fingerprint is the sum, in wrapping int64, of each element's bits mixed with its position by a
one-to-one function: equal tensors have equal fingerprints on every rank, a change of one element
always changes it, and several changes (swaps, signs) cancel with probability 2**-64. Without the
mixing, two changed signs of float64 would cancel always. Source of the mixer: Steele, Lea, Flood
2014, doi:10.1145/2660193.2660195 (splitmix64).

Letters: S sample ranks, D data ranks.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpc_bnn.group import Group
from hpc_bnn.parallel.grid import Grid

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
_SAME_START = "all ranks must start from the same settings, code and data"


class GuardError(RuntimeError):
    """The ranks of a run disagree where they must agree, or agree where they must differ."""


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


def agree(
    group: Group, values: Mapping[str, object], *, name: str, advice: str = _SAME_START
) -> None:
    """Collective: prove that every rank holds the same ``values``; the error names key, ranks and
    both values, and ends with ``advice``.

    The values are plain ones, whose ``repr`` says all of them: one number a rank travels where
    they are equal.
    """
    mine = torch.tensor([digest(sorted(values.items()))])
    if bool((group.all_gather(mine, name=name) == mine).all()):
        return
    everyone = group.gather(dict(values), name=name)
    for rank, other in enumerate(everyone):
        for key in sorted(set(everyone[0]) | set(other)):
            first, here = everyone[0].get(key, "missing"), other.get(key, "missing")
            if first != here:
                raise GuardError(
                    f"{name}: {key} is {first!r} on world rank 0 and {here!r} on world rank "
                    f"{rank}; {advice}"
                )


def total_of(
    group: Group, values: Sequence[float], counts: Sequence[int], *, name: str
) -> tuple[list[float], list[int], list[bool]]:
    """Collective: return the sums of ``values`` over all ranks, those of ``counts``, and which of
    the counts are the same on every rank.

    The proof rides on the sum, n * sum(c**2) = (sum c)**2 only where all n numbers are equal
    (Cauchy-Schwarz). It is exact for counts below 2**20 on up to 2**13 ranks.
    """
    if group.size == 1:
        return list(values), list(counts), [True] * len(counts)
    mine = [*values, *counts, *(count**2 for count in counts)]
    summed = group.all_reduce(
        torch.tensor(mine, dtype=torch.float64), reduction="sum", name=name
    ).tolist()
    squared = len(values) + len(counts)
    sums, squares = (
        [int(total) for total in part] for part in (summed[len(values) : squared], summed[squared:])
    )
    same = [group.size * s == total**2 for total, s in zip(sums, squares, strict=True)]
    return summed[: len(values)], sums, same


def check(
    group: Group,
    grid: Grid,
    *,
    step: int,
    parameters: Mapping[str, Tensor],
    batch: Sequence[Tensor],
    draw: Tensor,
    buffers: Mapping[str, Tensor] | None = None,
    per_sample: Mapping[str, Tensor] | None = None,
) -> None:
    """Collective over the world: prove the three guards, or raise GuardError on every rank.

    Parameters
    ----------
    parameters
        All shared parameters by name.
    batch
        The tensors of this rank's batch, before augmentation.
    draw
        The first weights that this rank drew in this step.
    buffers
        What else the outputs depend on, by name: the same on all ranks, too.
    per_sample
        What has rows for the own weight samples, by name.
    """
    if group.size == 1:
        return
    each = {f"parameter {name}": fingerprint(p) for name, p in parameters.items()}
    each |= {f"buffer {name}": fingerprint(b) for name, b in (buffers or {}).items()}
    mine = [fingerprint_of(each.values()), fingerprint_of(map(fingerprint, batch))]
    rows = group.all_gather(torch.tensor([[*mine, fingerprint(draw)]]), name="guards").numpy()
    if (rows[:, 0] != rows[0, 0]).any():
        _name_tensor(group, step, each)
    if per_sample:
        members = {f"parameter {name}": fingerprint(t) for name, t in per_sample.items()}
        _check_members(group, grid, step, members)
    violation = first_violation(grid, rows[:, 1], rows[:, 2])
    if violation is not None:
        raise GuardError(f"step {step}: {violation}")


def _check_members(group: Group, grid: Grid, step: int, each: Mapping[str, int]) -> None:
    """Collective: prove that per-sample tensors are equal along the data axis and different along
    the sample axis.
    """
    mine = torch.tensor([[fingerprint_of(each.values())]])
    everyone = group.all_gather(mine, name="guards.members").numpy()
    ranks_ds = everyone.reshape(grid.data_ranks, grid.sample_ranks)
    if (ranks_ds != ranks_ds[:1]).any():
        of_each = group.gather(dict(each), name="guards.members of each")
        for rank, other in enumerate(of_each):
            first = rank % grid.sample_ranks
            names = [name for name, value in of_each[first].items() if other.get(name) != value]
            if names:
                raise GuardError(
                    f"step {step}: {names[0]} differs between world ranks {first} and {rank}, "
                    "which hold the same members; something changed it on some ranks only (an "
                    "update outside hb.Step, a load on one rank)"
                )
    repeats = _repeats(ranks_ds)
    if repeats.any():
        rank = int(repeats[0].argmax())
        twin = int((ranks_ds[0] == ranks_ds[0, rank]).argmax())
        raise GuardError(
            f"step {step}: world ranks {twin} and {rank} hold equal members, but are different "
            "sample ranks; members must start from weights of their own"
        )


def first_violation(
    grid: Grid, batches: npt.NDArray[np.int64], draws: npt.NDArray[np.int64]
) -> str | None:
    """Return what is wrong with the first rank that holds a batch or weights that it should not,
    given the fingerprints (S * D,) of all ranks; None: nothing.

    All ranks are compared at once: pair by pair it takes a second on thousands of ranks.
    """
    shape = grid.data_ranks, grid.sample_ranks
    batches_ds, draws_ds = batches.reshape(shape), draws.reshape(shape)
    violations = (
        (batches_ds != batches_ds[:, :1]) | _repeats(draws_ds) | _repeats(batches_ds.T).T
    ).ravel()
    if not violations.any():
        return None
    rank = int(violations.argmax())
    place = Grid(grid.sample_ranks, grid.data_ranks, rank)
    for other in place.sample_axis[: place.sample_rank]:
        if batches[other] != batches[rank]:
            return (
                f"world ranks {other} and {rank} hold different batches, but are "
                f"sample ranks {other % grid.sample_ranks} and {place.sample_rank} of data "
                f"rank {place.data_rank}; give all sample ranks of one data rank the same "
                "batch (shard by data_rank, not by world_rank)"
            )
        if draws[other] == draws[rank]:
            return (
                f"world ranks {other} and {rank} drew the same weights, but are "
                f"different sample ranks of data rank {place.data_rank}; each must draw its "
                "own samples"
            )
    other = next(r for r in place.data_axis if batches[r] == batches[rank])
    return (
        f"world ranks {other} and {rank} hold the same batch, but are "
        f"data ranks {other // grid.sample_ranks} and {place.data_rank}; give every "
        "data rank its own examples"
    )


def _repeats(values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return where the same row of ``values`` (n, m) holds an equal number further left."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    repeated = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeated


def _name_tensor(group: Group, step: int, each: Mapping[str, int]) -> None:
    """Collective: raise GuardError for the first tensor that differs; called by all ranks on the
    same evidence.
    """
    everyone = group.gather(dict(each), name="guards.parameters")
    for name, value in everyone[0].items():
        for rank, other in enumerate(everyone):
            if other.get(name) != value:
                raise GuardError(
                    f"step {step}: {name} differs between world ranks 0 and {rank}; "
                    "something changed it on some ranks only (an update outside hb.Step, a seed "
                    "per rank, a load on one rank)"
                )
    raise GuardError(f"step {step}: the ranks hold parameters of different names")
