"""Grids of ``grid.mode: auto``: which there are, what joint losses would exchange on them."""

import time

import pytest
import torch
from thread_group import on_ranks

from hpc_bnn import losses
from hpc_bnn.config import Settings
from hpc_bnn.losses.base import JointLoss
from hpc_bnn.parallel.grid import fitting_grids
from hpc_bnn.train.plan.auto_grid import AutoGrid, Candidate
from hpc_bnn.train.plan.counting_axis import CountingAxis

JOINT = {
    "predictive": lambda: losses.categorical_nll(predictive=True),
    "moments": lambda: losses.gaussian_moments(sigma=0.5),
    "crps": lambda: losses.crps(layout="gather"),
    "transposed": lambda: losses.almost_fair_crps(layout="transposed"),
}


@pytest.mark.parametrize("ranks", range(1, 13))
def test_every_grid_that_shares_samples_and_batch(ranks: int) -> None:
    for samples in (1, 4, 6, 12):
        for batch in (1, 3, 8, 12):
            expected = [
                (s, d)
                for s in range(1, ranks + 1)
                for d in range(1, ranks + 1)
                if s * d == ranks and samples % s == 0 and batch % d == 0
            ]
            if expected:
                assert fitting_grids(ranks, samples=samples, batch_size=batch) == expected
            else:
                with pytest.raises(ValueError, match=f"S x D = {ranks} ranks"):
                    fitting_grids(ranks, samples=samples, batch_size=batch)


def test_what_the_error_advises_fits() -> None:
    with pytest.raises(
        ValueError, match=r"use 2 or 4 ranks, post.*samples=6 or .*batch_size=9"
    ) as no:
        fitting_grids(3, samples=4, batch_size=8)
    assert "posterior.samples = 4" in str(no.value) and "train.batch_size = 8" in str(no.value)
    for ranks, samples, batch in ((2, 4, 8), (4, 4, 8), (3, 6, 8), (3, 4, 9)):
        assert fitting_grids(ranks, samples=samples, batch_size=batch)


@pytest.mark.parametrize(
    ("ranks", "samples", "batch", "advised"),
    [
        (3, 1, 16_411, "use 1 or 16411 ranks, posterior.samples=3 or train.batch_size=16413"),
        (7, 1, 2**31 - 1, "use 1 or 2147483647 ranks"),
        (7, 10**9, 10**9, "use 5 or 8 ranks"),
        (4096, 3, 5, "use 15 ranks"),
    ],
)
def test_no_grid_is_told_at_once(ranks: int, samples: int, batch: int, advised: str) -> None:
    """Whatever the batch: nothing counts up to it."""
    start = time.process_time()
    with pytest.raises(ValueError, match=advised):
        fitting_grids(ranks, samples=samples, batch_size=batch)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", JOINT)
def test_the_counting_axis_sees_the_exchanges_of_a_real_one(name: str, size: int) -> None:
    loss = JOINT[name]()
    assert isinstance(loss, JointLoss)
    outputs, target = torch.randn(8, 3, 5), torch.randn(3, 5)
    target = torch.randint(0, 5, (3,)) if name == "predictive" else target
    counting = CountingAxis(size)

    def run(axis: object, own: torch.Tensor) -> None:
        leaf = own.clone().requires_grad_()
        torch.autograd.backward(loss(leaf, target, axis).sum())

    run(counting, outputs[: 8 // size])
    real = on_ranks(size, lambda axis: (run(axis, outputs.chunk(size)[axis.rank]), axis)[1])
    if size == 1:
        assert counting.calls == counting.received_bytes == 0
    else:
        assert counting.calls == len(real[0].calls) > 0
        assert counting.received_bytes > 0


def test_settings() -> None:
    content = {
        "loss": {"name": "crps"},
        "model": {"name": "mlp"},
        "data": {"name": "digits"},
        "train": {"steps": 1},
    }
    assert Settings.model_validate({**content, "grid": {"mode": "auto"}}).grid.mode == "auto"
    with pytest.raises(ValueError, match="mode = auto chooses sample_ranks, which is 2"):
        Settings.model_validate({**content, "grid": {"mode": "auto", "sample_ranks": 2}})


def test_record_is_json() -> None:
    record = AutoGrid(2, (Candidate(2, 1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0),), 0.5).record()
    assert record["candidates"][0]["step_time_s"] == 0.1
    assert record["seconds"] == 0.5
