"""All members on a part of the points: what ranks exchange where members are large fields.

Rank r holds points r * part .. (r + 1) * part - 1 of every member, part = ceil(P / R); the last
ones are padded with zeros, whose weight is 0.

Letters: S own samples, K samples in all, B batch, P points, R ranks of the axis.
"""

from torch import Tensor
from torch.nn import functional

from hpc_bnn.group import Group


def send_points(own: Tensor, axis: Group, *, name: str) -> Tensor:
    """Collective over the sample axis: return all members (K, B, part) on the points of this rank
    from the own members (S, B, P).
    """
    samples, batch, points = own.shape
    part = -(-points // axis.size)
    padded = functional.pad(own, (0, part * axis.size - points))
    # (S, B, R * part) -> (R, S, B, part): block r is what rank r scores
    sent = padded.reshape(samples, batch, axis.size, part).permute(2, 0, 1, 3).contiguous()
    return axis.all_to_all(sent, name=name).reshape(-1, batch, part)


def points_here(x: Tensor, axis: Group) -> Tensor:
    """Return what ``x`` (..., P) holds on the points of this rank, (..., part)."""
    points = x.shape[-1]
    part = -(-points // axis.size)
    padded = functional.pad(x, (0, part * axis.size - points))
    return padded[..., axis.rank * part : axis.rank * part + part]


def send_back(points: Tensor, shape: tuple[int, ...], axis: Group, *, name: str) -> Tensor:
    """Collective over the sample axis: return (S, B, P) = ``shape`` of the own members from (K, B,
    part) of all on the points of this rank.
    """
    samples, batch, count = shape
    blocks = points.reshape(axis.size, samples, batch, -1).contiguous()
    mine = axis.all_to_all(blocks, name=name)
    return mine.permute(1, 2, 0, 3).reshape(samples, batch, -1)[..., :count]
