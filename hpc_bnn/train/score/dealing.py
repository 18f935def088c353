"""Deal a forecast out to the sample ranks: each gets all members of a part of the points.

A rank computes its own members of all points; a score needs all members of a point. So points are
exchanged a slice at a time, and every rank scores its part of each slice: no rank ever holds all
members of all points, and none computes a score that another one has.

A point is whatever is scored by itself: a number of a target, or a whole example.

Letters: S own members, K = R S members in all, R ranks of the axis, N points of a slice, n points
of this rank's part.
"""

from torch import Tensor
from torch.nn import functional

from hpc_bnn.group import Group

SLICE_BYTES = 1 << 24  # of all members of a rank's part; scoring takes about nine times that


def slices(own: Tensor, axis: Group) -> list[slice]:
    """Cut the points of own members (S, points, ...) into slices.

    All members of a rank's part of one have at most ``SLICE_BYTES``; a part has at least one point.
    """
    points = own.shape[1]
    point_bytes = axis.size * len(own) * own[0, :1].numel() * own.element_size()
    step = axis.size * max(1, SLICE_BYTES // max(1, point_bytes))
    return [slice(first, min(first + step, points)) for first in range(0, points, step)]


def own_part(points: int, axis: Group) -> slice:
    """Return this rank's part of a slice: the same number for all but the last ones, which may have
    none.
    """
    size = -(-points // axis.size)
    return slice(min(points, axis.rank * size), min(points, (axis.rank + 1) * size))


def deal(own: Tensor, axis: Group, *, name: str) -> Tensor:
    """Collective over the sample axis: return all members (K, n, ...) of this rank's part from the
    own members (S, N, ...) of all points.
    """
    points = own.shape[1]
    size = -(-points // axis.size)
    if size * axis.size > points:
        own = functional.pad(own, [0, 0] * (own.dim() - 2) + [0, size * axis.size - points])
    # (S, R size, ...) -> (R, S, size, ...): block r is what rank r scores
    sent = own.unflatten(1, (axis.size, size)).transpose(0, 1).contiguous()
    here = own_part(points, axis)
    return axis.all_to_all(sent, name=name).flatten(0, 1)[:, : here.stop - here.start]
