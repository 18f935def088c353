"""Guards: three small collectives prove that the ranks still do what the contract says.

    parameters     equal on all ranks; per-sample ones equal along the data axis, different along
                   the sample axis
    batch          equal along the sample axis, different along the data axis
    weight draws   different along the sample axis

What must be equal is compared by a reduction, what must differ along an axis by the first rank of
that axis, which sorts the fingerprints of its ranks; so a rank is handed one number for each rank
of an axis, at most, and names travel only where something is wrong.

Letters: S sample ranks, D data ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hpc_bnn.group import Group
from hpc_bnn.parallel.fingerprint import digest, fingerprint, fingerprint_of
from hpc_bnn.parallel.grid import Grid

if TYPE_CHECKING:  # which is made of what is here
    from hpc_bnn.parallel.world import World

Numbers = npt.NDArray[np.int64]

LEAST = -(1 << 63)  # of 64 bits: no maximum is that of a rank that gives it

_CHANGED = (
    "; something changed it on some ranks only (an update outside hb.Step, a seed per rank, a load "
    "on one rank)"
)
_CHANGED_MEMBERS = (
    ", which hold the same members; something changed it on some ranks only (an update outside "
    "hb.Step, a load on one rank)"
)
_SAME_START = "all ranks must start from the same settings, code and data"


class GuardError(RuntimeError):
    """The ranks of a run disagree where they must agree, or agree where they must differ."""


def agree(
    group: Group, values: Mapping[str, object] | None, *, name: str, advice: str = _SAME_START
) -> None:
    """Collective: prove that every rank holds the same ``values``; the error names a key, ranks and
    both values, and ends with ``advice``.

    The values are plain ones, whose ``repr`` says all of them: two numbers are reduced where they
    are equal, and else those of the first rank travel. None: this rank, not the first, has nothing
    to say.
    """
    number = None if values is None else digest(sorted(values.items()))
    if equal_on_all_ranks(group, number, name=name):
        return
    first = group.broadcast(dict(values or {}), name=name)
    values = first if values is None else values
    found = None
    # What both have tells more.
    for key in [*sorted(first.keys() & values.keys()), *sorted(first.keys() ^ values.keys())]:
        theirs, here = first.get(key, "missing"), values.get(key, "missing")
        if theirs != here:
            found = (
                f"{name}: {key} is {theirs!r} on world rank 0 and {here!r} on world rank "
                f"{group.rank}; {advice}"
            )
            break
    said = group.first_text(found, name=name)
    if said is not None:
        raise GuardError(said[1])


def equal_on_all_ranks(group: Group, number: int | None, *, name: str) -> bool:
    """Collective: tell whether every rank holds the same number of 64 bits; None: this one holds
    none.
    """
    mine = [LEAST, LEAST] if number is None else [number, ~number]
    both = group.all_reduce(torch.tensor(mine), reduction="max", name=name)
    return _are_equal(*both.tolist())


def _are_equal(largest: int, largest_inverted: int) -> bool:
    """Tell whether numbers are all equal, by their maximum and that of their bits inverted."""
    return largest == ~largest_inverted


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


@dataclass(frozen=True)
class Finding:
    """What is wrong with a rank, and how much it matters: the gravest is raised."""

    gravity: int
    text: str


def check(
    world: "World",
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
    ranks, grid = world.all_ranks, world.grid
    if ranks.size == 1:
        return
    each = {f"parameter {name}": fingerprint(p) for name, p in parameters.items()}
    each |= {f"buffer {name}": fingerprint(b) for name, b in (buffers or {}).items()}
    members = {f"parameter {name}": fingerprint(t) for name, t in (per_sample or {}).items()}
    mine = torch.tensor(
        [
            fingerprint_of(map(fingerprint, batch)),
            fingerprint(draw),
            # Where there are none, the ranks hold different ones.
            fingerprint_of(members.values()) if members else grid.sample_rank,
        ]
    )
    findings = [Finding(0, "")]
    for axis, violation in (
        (world.sample_axis, sample_axis_violation),
        (world.data_axis, data_axis_violation),
    ):
        rows = axis.gather_tensor(mine, name="guards") if axis.size > 1 else None
        found = None if rows is None else violation(grid, *rows.numpy().T)
        findings += [] if found is None else [found]
    worst = max(findings, key=lambda finding: finding.gravity)
    whole = fingerprint_of(each.values())
    numbers = torch.tensor([whole, ~whole, worst.gravity])
    *both, gravity = ranks.all_reduce(numbers, reduction="max", name="guards").tolist()
    if not _are_equal(*both):
        _raise_first_difference(ranks, world, step, each, _CHANGED)
    if gravity == _members_differ(grid):
        _raise_first_difference(world.data_axis, world, step, members, _CHANGED_MEMBERS)
    if gravity:
        said = ranks.first_text(worst.text if worst.gravity == gravity else None, name="guards")
        assert said is not None
        raise GuardError(f"step {step}: {said[1]}")


def sample_axis_violation(
    first: Grid, batches: Numbers, draws: Numbers, members: Numbers
) -> Finding | None:
    """Return what is wrong with the first rank of a sample axis that holds a batch, weights or
    members that it should not, given the fingerprints (S,) of its ranks; None: nothing.

    first: place of the first rank of the axis.
    """
    axis = first.sample_axis
    again = _first_repeat(members)
    if again is not None:
        twin, at = again
        return Finding(
            3 * first.world_size - axis[at] + 1,
            f"world ranks {axis[twin]} and {axis[at]} hold equal members, but are different "
            "sample ranks; members must start from weights of their own",
        )
    others = batches != batches[0]
    again = _first_repeat(draws)
    if others.any() and (again is None or int(others.argmax()) <= again[1]):
        at = int(others.argmax())
        text = (
            f"world ranks {axis[0]} and {axis[at]} hold different batches, but are sample ranks 0 "
            f"and {at} of data rank {first.data_rank}; give all sample ranks of one data rank the "
            "same batch (shard by data_rank, not by world_rank)"
        )
    elif again is not None:
        twin, at = again
        text = (
            f"world ranks {axis[twin]} and {axis[at]} drew the same weights, but are different "
            f"sample ranks of data rank {first.data_rank}; each must draw its own samples"
        )
    else:
        return None
    return Finding(2 * (first.world_size - axis[at]) + 1, text)


def data_axis_violation(
    first: Grid, batches: Numbers, draws: Numbers, members: Numbers
) -> Finding | None:
    """Return what is wrong with the first rank of a data axis that holds a batch or members that it
    should not, given the fingerprints (D,) of its ranks; None: nothing.

    first: place of the first rank of the axis.
    """
    if (members != members[0]).any():
        return Finding(_members_differ(first), "")
    again = _first_repeat(batches)
    if again is None:
        return None
    twin, at = again
    axis = first.data_axis
    return Finding(
        2 * (first.world_size - axis[at]),
        f"world ranks {axis[twin]} and {axis[at]} hold the same batch, but are data ranks {twin} "
        f"and {at}; give every data rank its own examples",
    )


def _members_differ(grid: Grid) -> int:
    """Return the gravity of members that differ along a data axis: graver than all else."""
    return 4 * grid.world_size


def _first_repeat(numbers: Numbers) -> tuple[int, int] | None:
    """Return the first place of (n,) that holds a number seen before, behind the place of that;
    None: there is none.
    """
    order = np.argsort(numbers, kind="stable")
    again = order[1:][numbers[order[1:]] == numbers[order[:-1]]]
    if not again.size:
        return None
    at = int(again.min())
    return int((numbers == numbers[at]).argmax()), at


def _raise_first_difference(
    group: Group, world: "World", step: int, each: Mapping[str, int], reason: str
) -> NoReturn:
    """Collective over the world: raise GuardError for the first tensor that is another one than on
    the first rank of its ``group``; called by all ranks on the same evidence.
    """
    ranks, own = world.all_ranks, world.all_ranks.rank
    first, theirs = group.broadcast((own, dict(each)), name="guards: names")
    names = list(theirs)
    at = next((i for i, name in enumerate(names) if each.get(name) != theirs[name]), len(names))
    # The first in the order of the tensors, and of several ranks the lowest.
    mine = torch.tensor([(len(names) - at) * ranks.size + ranks.size - own - 1])
    worst = int(ranks.all_reduce(mine, reduction="max", name="guards: names"))
    if worst < ranks.size:
        raise GuardError(f"step {step}: the ranks hold parameters of different names")
    text = None
    if worst == int(mine):
        text = f"{names[at]} differs between world ranks {first} and {own}{reason}"
    said = ranks.first_text(text, name="guards: names")
    assert said is not None
    raise GuardError(f"step {step}: {said[1]}")
