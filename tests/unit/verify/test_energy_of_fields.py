"""The energy score of fields against scoringrules, the loss and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from hpc_bnn import losses
from hpc_bnn.group import ALONE
from hpc_bnn.verify.energy import energy_score
from hpc_bnn.verify.scores import crps_ensemble


def fields(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    members = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return members, torch.randn(*shape[1:], generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("count", [2, 7])
def test_it_equals_scoringrules(count: int, fair: bool) -> None:
    sr = pytest.importorskip("scoringrules", reason="independent implementation")
    members, truth = fields(count, 5, 6)
    got = energy_score(members, truth, fair=fair)
    oracle = sr.es_ensemble(truth.numpy(), members.numpy(), 0, estimator="fair" if fair else "nrg")
    assert torch.allclose(got, torch.tensor(oracle) / math.sqrt(6), rtol=1e-12, atol=0)


@pytest.mark.parametrize("fair", [False, True])
def test_it_equals_the_loss_with_weights(fair: bool) -> None:
    members, truth = fields(6, 3, 2, 4, 5)
    area = torch.tensor([0.4, 1.3, 1.2, 0.5], dtype=torch.float64)[:, None]
    loss = losses.energy_score(alpha=float(fair), weights=area)
    got = energy_score(members.float(), truth, weights=area, fair=fair)
    assert got.dtype == torch.float64
    assert torch.allclose(got, loss(members.float().double(), truth, ALONE), rtol=1e-12, atol=0)


def test_of_one_point_it_is_the_crps_and_of_one_member_its_distance() -> None:
    members, truth = fields(6, 30)
    assert torch.allclose(energy_score(members, truth), crps_ensemble(members, truth), rtol=1e-12)
    one, truth = fields(1, 3, 4, 5)
    distance = (one[0] - truth).square().mean((1, 2)).sqrt()
    assert torch.allclose(energy_score(one, truth), distance, rtol=1e-12)


def test_what_does_not_fit_is_refused_and_nan_is_seen() -> None:
    members, truth = fields(3, 2, 4)
    with pytest.raises(ValueError, match=r"members \(3, 2, 4\) for truth \(2, 1\)"):
        energy_score(members, truth[:, :1])
    with pytest.raises(ValueError, match="at least 2 of them"):
        energy_score(members[:1], truth, fair=True)
    members[1, 1, 0] = math.nan
    assert energy_score(members, truth).isnan().tolist() == [False, True]
