"""Brier score of events: by hand, against scoringrules, and its parts."""

import math

import numpy as np
import pytest
import torch

from hpc_bnn.verify.events import brier_parts, climatological_quantiles, event_counts
from hpc_bnn.verify.skill import skill


def test_by_hand() -> None:
    """Probabilities 0, 1/2, 1/2, 1; events no, yes, no, yes."""
    members = torch.tensor([[0.0, 3.0, 0.0, 3.0], [0.0, 0.0, 3.0, 2.0]])
    truth = torch.tensor([0.0, 5.0, 0.0, 5.0])
    counts = event_counts(members, truth, torch.tensor(1.0))
    assert counts.tolist() == [[1, 0], [2, 1], [1, 1]]
    assert brier_parts(counts) == pytest.approx((0.125, 0.0, 0.125, 0.25))
    weighted = event_counts(members, truth, torch.tensor(1.0), torch.tensor([1.0, 2.0, 4.0, 1.0]))
    assert weighted.tolist() == [[1, 0], [6, 2], [1, 1]]
    assert brier_parts(weighted).brier == pytest.approx(6 / 4 / 8)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.95])
def test_brier_equals_scoringrules_and_its_parts(level: float) -> None:
    sr = pytest.importorskip("scoringrules", reason="independent implementation")
    generator = torch.Generator().manual_seed(5)
    states = torch.randn(200, 3, 4, generator=generator, dtype=torch.float64)
    threshold = climatological_quantiles(states, [level])[0]
    members = torch.randn(9, 50, 3, 4, generator=generator, dtype=torch.float64)
    truth = 0.5 * members[0] + torch.randn(50, 3, 4, generator=generator, dtype=torch.float64)
    # Counts add up over starts.
    counts = sum(
        event_counts(members[:, part], truth[part], threshold)
        for part in (slice(0, 20), slice(20, 50))
    )
    assert isinstance(counts, torch.Tensor)
    parts = brier_parts(counts)
    probability = (members > threshold).double().mean(0).numpy()
    oracle = sr.brier_score((truth > threshold).double().numpy(), probability).mean()
    assert parts.brier == pytest.approx(oracle, rel=1e-12)
    total = parts.reliability - parts.resolution + parts.uncertainty
    assert total == pytest.approx(parts.brier, rel=1e-12)
    assert min(parts) >= 0


def test_calibrated_members_are_reliable_and_climatology_does_not_resolve() -> None:
    """Truth and members drawn alike around a centre that is known: o_k near k / M."""
    generator = torch.Generator().manual_seed(6)
    centre = torch.randn(200_000, generator=generator, dtype=torch.float64)
    noise = torch.randn(9, 200_000, generator=generator, dtype=torch.float64)
    zero = torch.tensor(0.0)
    sharp = brier_parts(event_counts(centre + 1e-9 * noise[:8], centre, zero))
    assert sharp.brier < 1e-6 and sharp.resolution == pytest.approx(0.25, abs=1e-3)
    blind = brier_parts(event_counts(noise[:8], noise[8], zero))
    # Variance of 8 draws of probability 1 / 2 is all that is unreliable in them: 1 / 4 / 8.
    assert blind.reliability == pytest.approx(0.25 / 8, abs=1e-3)
    assert blind.resolution == pytest.approx(0.0, abs=1e-3)


def test_nan_and_shapes() -> None:
    members, truth = torch.zeros(3, 4), torch.zeros(4)
    members[1, 2] = math.nan
    counts = event_counts(members, truth, torch.tensor(0.0))
    assert bool(counts.isnan().all()) and all(math.isnan(x) for x in brier_parts(counts))
    with pytest.raises(ValueError, match=r"members \(3, 4\) for truth \(5,\)"):
        event_counts(members, torch.zeros(5), torch.tensor(0.0))
    assert all(math.isnan(x) for x in brier_parts(torch.zeros(4, 2)))


def test_quantiles_are_those_of_each_point() -> None:
    states = torch.arange(11.0)[:, None] * torch.tensor([1.0, -2.0])
    got = climatological_quantiles(states, [0.1, 0.5])
    assert got.tolist() == pytest.approx(np.array([[1.0, -18.0], [5.0, -10.0]]))


def test_skill() -> None:
    got = skill(torch.tensor([0.0, 1.0, 2.0, 4.0, 1.0]), torch.tensor([2.0, 2.0, 2.0, 2.0, 0.0]))
    assert got[:4].tolist() == [1.0, 0.5, 0.0, -1.0] and bool(got[4].isnan())
