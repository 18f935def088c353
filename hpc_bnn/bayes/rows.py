"""The rows of a tensor that has one for each weight sample, of which a process holds a part.

Letters: K weight samples over the whole grid, S held here.
"""

from dataclasses import dataclass

from torch import Tensor, uint8

from hpc_bnn.group import Group


@dataclass(frozen=True)
class Rows:
    """The rows that this process holds of a tensor (K, ...).

    Attributes
    ----------
    tensor
        (S, ...).
    samples
        The global indices of its S rows.
    """

    tensor: Tensor
    samples: range


def gather_rows(rows: Rows, sample_axis: Group, *, name: str) -> Tensor:
    """Collective over the sample axis: return all rows (K, ...), those of several ranks on the CPU.

    Ranks hold equally many, in the order of the axis.
    """
    if sample_axis.size == 1:
        return rows.tensor
    own = rows.tensor.detach().cpu()
    whole = own.new_empty((sample_axis.size, *own.shape))
    for place, row in enumerate(own):  # as bytes, since numpy knows fewer types
        content = row.contiguous().view(1, -1).view(uint8)
        everyone = sample_axis.all_gather(content, name=name)
        whole[:, place] = everyone.view(own.dtype).view(sample_axis.size, *row.shape)
    return whole.flatten(0, 1)
