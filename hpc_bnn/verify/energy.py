"""Energy score of ensembles of whole fields, in float64: how points vary together counts.

    ES = mean_i |x_i - t| - c / 2 sum_ij |x_i - x_j|,   |x|^2 = weighted mean of x^2 over points
    c = 1 / M^2 standard, 1 / (M (M - 1)) fair

Gneiting, Raftery 2007, doi:10.1198/016214506000001437, eq. 22. As a loss: ``losses.energy_score``.

Letters: M members, B examples; `...` the points of an example.
"""

import torch
from torch import Tensor


def energy_score(
    members: Tensor, truth: Tensor, *, weights: Tensor | None = None, fair: bool = False
) -> Tensor:
    """Compute the energy score (B,), in the unit of the forecast, of members (M, B, ...).

    weights: broadcast against an example (...), and count relative to their sum. fair: unbiased in
    M, of at least two members.

    Raises
    ------
    ValueError
        If members and truth (B, ...) do not fit, or a fair score is asked of one member.
    """
    count = len(members)
    if members.shape[1:] != truth.shape or count < (2 if fair else 1):
        raise ValueError(
            f"energy_score: members {tuple(members.shape)} for truth {tuple(truth.shape)}, "
            f"fair = {fair}: expected (M, *truth), at least {2 if fair else 1} of them"
        )
    example = truth.shape[1:]
    flat = torch.ones(example, dtype=torch.float64, device=truth.device)
    if weights is not None:
        flat = weights.to(truth.device, torch.float64).expand(example)
    share = (flat / flat.sum()).reshape(-1)
    x = members.double().reshape(count, len(truth), -1)
    t = truth.double().reshape(len(truth), -1)

    def norm(difference: Tensor) -> Tensor:
        return (difference.square() * share).sum(-1).sqrt()

    skill = torch.stack([norm(member - t) for member in x]).mean(0)
    pairs = torch.zeros_like(skill)
    for i in range(count):
        for j in range(i):
            pairs += norm(x[i] - x[j])
    return skill - pairs / (count * (count - 1) if fair else count**2)
