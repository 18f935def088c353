"""Energy score of ensembles of whole fields, in float64: how points vary together counts.

    ES = mean_i |x_i - t| - c / 2 sum_ij |x_i - x_j|,   |x|^2 = weighted mean of x^2 over points
    c = 1 / M^2 standard, 1 / (M (M - 1)) fair

Gneiting, Raftery 2007, doi:10.1198/016214506000001437, eq. 22. As a loss: ``losses.energy_score``.

All distances follow from the products of members and truth, of differences to the ensemble mean;
and products are sums over points, so that a field can be scored in parts that are added up.

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
    share = torch.ones(example, dtype=torch.float64, device=truth.device)
    if weights is not None:
        share = weights.to(truth.device, torch.float64).expand(example)
    products = products_of_differences(members, truth, share / share.sum())
    return energy_of_products(products, fair=fair)


def products_of_differences(members: Tensor, truth: Tensor, share: Tensor) -> Tensor:
    """Sum the products (B, M + 1, M + 1) float64 of the differences to the ensemble mean, those of
    the M members and then that of the truth, over the points (...) with the weights ``share``.

    members: (M, B, ...). truth: (B, ...). share: broadcasts against (...).

    The last one of the diagonal is the squared error of the mean, the sum of the others M - 1 times
    the variance.
    """
    count, batch = members.shape[:2]
    points = truth.shape[1:]
    root = share.to(truth.device, torch.float64).expand(points).reshape(-1).sqrt()
    x = members.double().reshape(count, batch, -1)
    mean = x.mean(0)
    differences = x.new_empty(batch, count + 1, x.shape[-1])
    torch.sub(x.transpose(0, 1), mean[:, None], out=differences[:, :count])
    torch.sub(truth.double().reshape(batch, -1), mean, out=differences[:, count])
    differences *= root
    return differences @ differences.mT


def energy_of_products(products: Tensor, *, fair: bool = False) -> Tensor:
    """Compute the energy score (B,) from ``products_of_differences``, of shares that sum to 1."""
    count = products.shape[-1] - 1
    squares = products.diagonal(dim1=-2, dim2=-1)
    distances = squares[:, :, None] + squares[:, None, :] - 2 * products
    # Rounding, of members that are equal.
    distances = torch.where(distances < 0, 0.0, distances).sqrt()
    skill = distances[:, :count, count].mean(-1)
    pairs = distances[:, :count, :count].triu(1).sum((-2, -1))
    return skill - pairs / (count * (count - 1) if fair else count**2)
