"""What settings say of a method: its options by name, and the memory that it takes."""

from functools import cache
from typing import Any

import pytest

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.data import Source
from hpc_bnn.group import ALONE
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.train.plan.estimate import Estimate, estimate
from hpc_bnn.train.run.build import check_choices, read_source, resolved

K = 12


def settings(name: str, *, ema: float = 0.0, **options: Any) -> Settings:
    content = {
        "posterior": {"name": name, "samples": K, **options},
        "loss": {"name": "gaussian_nll", "variance": "predicted"},
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
        "train": {"steps": 6, "batch_size": 12, "precision": "float64", "ema": ema},
    }
    return Settings.model_validate(content)


@cache
def source() -> Source:
    return read_source(settings("gaussian"), ALONE)


def estimated(chosen: Settings, sample_ranks: int = 1) -> Estimate:
    return estimate(chosen, source(), Grid(sample_ranks, 1, sample_ranks - 1))


NETWORK = sum(p.numel() for p in MLP((12,), (8,), hidden=(8,)).parameters()) * 8


def test_a_method_is_known_by_its_name_and_options() -> None:
    chosen = settings("ensemble", anchored=True)
    check_choices(chosen, "my.yaml")
    options = resolved(chosen).posterior.options
    assert options == {"prior_sigma": 1.0, "anchored": True, "initial_spread": None}
    assert "name: ensemble" in dump_settings(chosen)


@pytest.mark.parametrize(
    ("name", "options", "networks"),
    [("ensemble", {}, 1), ("swag", {"rank": 2, "start": 1, "collect_every": 1}, 1 + 2 + 2)],
)
def test_the_estimate_counts_own_members_only(
    name: str, options: dict[str, Any], networks: int
) -> None:
    """A member of SWAG has mean, variance and two deviations beside its weights."""
    alone, spread = (estimated(settings(name, **options), ranks) for ranks in (1, 4))
    assert alone.parameters - spread.parameters == 9 * networks * NETWORK
    assert spread.optimizer == alone.optimizer // 4


def test_the_estimate_counts_u() -> None:
    """U has 8 rows: 64 bytes a random weight, its optimizer twice that, its gradient once."""
    without, with_u = (estimated(settings("low_rank", rank=rank)) for rank in (0, 8))
    weights = NETWORK // 8
    assert with_u.parameters - without.parameters == 64 * weights
    assert with_u.optimizer - without.optimizer == 128 * weights
    assert with_u.step - without.step >= 64 * weights


def test_the_estimate_counts_averages() -> None:
    with_it, plain = estimated(settings("gaussian", ema=0.7)), estimated(settings("gaussian"))
    assert plain.ema == 0
    assert with_it.ema == with_it.optimizer // 2  # of everything that is trained, in float64
    assert with_it.gpu_bytes - plain.gpu_bytes == with_it.ema
