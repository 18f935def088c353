"""``hb.save`` and ``hb.load`` in a script: a training that was stopped goes on bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from train.toy_step import alone, batch

import hpc_bnn as hb
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.train.run.checkpoint import CheckpointError, load

TOTAL, SAVED = 7, 3
Rate = torch.optim.lr_scheduler.LRScheduler
POSTERIORS: dict[str, Callable[[nn.Module], Posterior]] = {
    "gaussian": lambda network: hb.Gaussian(network, seed=4),
    "ensemble": lambda network: hb.Ensemble(network, samples=4),
    "swag": lambda network: hb.SWAG(network, samples=4, rank=2, start=1),
    "sghmc": lambda network: hb.SGHMC(network, samples=4, burn_in=1, collect_every=2, snapshots=2),
}


class Training:
    """What a script makes at its start."""

    def __init__(self, method: str = "gaussian", *, hidden: int = 5, **options: Any) -> None:
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2)).double()
        self.posterior = POSTERIORS[method](network)
        self.loss = hb.losses.gaussian_nll(variance="learned").double()
        if method == "sghmc":
            self.loss = hb.losses.gaussian_nll(sigma=0.5).double()
        both = [*self.posterior.parameters(), *self.loss.parameters()]
        self.optimizer = self.posterior.optimizer(lr=0.01) or torch.optim.Adam(both, lr=0.01)
        self.scheduler: Rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, max_lr=0.05, total_steps=TOTAL + 1, cycle_momentum=False
        )
        averages = 0.0 if self.posterior.predicts_collected else 0.9
        options = {"samples": 4, "num_examples": 50, "ema": averages, **options}
        self.step = hb.Step(self.posterior, self.loss, self.optimizer, alone(), **options)

    def go(self, until: int) -> list[float]:
        losses = []
        for number in range(self.step.step, until):
            x, y = batch(step=number)
            losses.append(float(self.step(x.double(), y.double())))
            self.scheduler.step()
        return losses

    def parts(self) -> tuple[Posterior, torch.optim.Optimizer, hb.Step]:
        return self.posterior, self.optimizer, self.step

    def save(self, path: Path) -> None:
        hb.save(path, *self.parts(), scheduler=self.scheduler)

    def load(self, path: Path, **options: Any) -> int:
        return hb.load(path, *self.parts(), scheduler=self.scheduler, **options)


@pytest.mark.parametrize("method", POSTERIORS)
def test_a_resumed_script_equals_the_uninterrupted_one_bit_for_bit(
    method: str, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    whole = Training(method)
    expected = whole.go(TOTAL)
    first = Training(method)
    assert first.load(path, missing_ok=True) == 0
    first.go(SAVED)
    first.save(path)
    resumed = Training(method)
    assert resumed.load(path, missing_ok=True) == SAVED
    assert resumed.go(TOTAL) == expected[SAVED:]
    for name, tensor in whole.posterior.state_dict().items():
        assert torch.equal(resumed.posterior.state_dict()[name], tensor), name
    assert resumed.scheduler.get_last_lr() == whole.scheduler.get_last_lr()
    x, _ = batch()
    if whole.step.ema is not None and resumed.step.ema is not None:
        for name, average in whole.step.ema.weights.items():
            assert torch.equal(resumed.step.ema.weights[name], average), name
    assert torch.equal(
        whole.posterior.predict(x.double(), samples=3),
        resumed.posterior.predict(x.double(), samples=3),
    )


def test_without_hb_load_it_is_another_run(tmp_path: Path) -> None:
    """What this is for: state dicts alone do not hold the number of the step."""
    whole, first, resumed = Training(), Training(), Training()
    expected = whole.go(TOTAL)
    first.go(SAVED)
    resumed.posterior.load_state_dict(first.posterior.state_dict())
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    assert resumed.go(1)[0] != expected[SAVED]


def test_the_file_is_a_checkpoint_and_replaces_the_one_before(tmp_path: Path) -> None:
    path, training = tmp_path / "new" / "last.pt", Training()
    training.go(1)
    training.save(path)
    training.go(2)
    training.save(path)
    assert (load(path).step, [p.name for p in path.parent.iterdir()]) == (2, ["last.pt"])


def test_the_posterior_alone_gets_the_averages_to_predict_with(tmp_path: Path) -> None:
    path, training, x = tmp_path / "last.pt", Training(), batch()[0].double()
    training.go(SAVED)
    training.save(path)
    fresh = Training().posterior
    assert hb.load(path, fresh) == SAVED
    with training.step.averaged():
        expected = training.posterior.predict(x, samples=3)
    assert torch.equal(fresh.predict(x, samples=3), expected)


def test_what_would_be_another_training_is_refused(tmp_path: Path) -> None:
    path, training = tmp_path / "last.pt", Training()
    training.go(1)
    training.save(path)
    with pytest.raises(CheckpointError, match=r"the file has a scheduler, this script has none"):
        hb.load(path, *Training().parts())
    with pytest.raises(CheckpointError, match=r"the file has a moving average"):
        Training(ema=0.0).load(path)
    with pytest.raises(CheckpointError, match=r"posterior.mu.*|another model"):
        Training(hidden=6).load(path)
    with pytest.raises(CheckpointError, match=r"no such checkpoint"):
        Training().load(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"the step was made of another optimizer"):
        hb.save(path, training.posterior, Training().optimizer, training.step)
    with pytest.raises(ValueError, match=r"give posterior, optimizer and step"):
        hb.load(path, training.posterior, training.optimizer)
    other = Training()
    other.scheduler = torch.optim.lr_scheduler.ConstantLR(other.optimizer)
    with pytest.raises(CheckpointError, match=r"OneCycleLR in it, ConstantLR here"):
        other.load(path)


def test_a_scheduler_that_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    training = Training()

    class Rate:
        def state_dict(self) -> dict[str, Any]:
            return {"at": torch.ones(1)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise AssertionError

    with pytest.raises(ValueError, match=r"scheduler\.at is of type Tensor"):
        hb.save(tmp_path / "last.pt", *training.parts(), scheduler=Rate())
    assert not (tmp_path / "last.pt").exists()


def test_other_numbers_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, training = tmp_path / "last.pt", Training()
    training.save(path)
    Training(num_examples=60).load(path)
    assert "num_examples = 50 then, 60 now" in caplog.text
