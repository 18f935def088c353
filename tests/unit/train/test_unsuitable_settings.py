"""Settings under which a method is not what it is called are refused, or named in a warning."""

from typing import Any

import pytest
import torch
from torch import nn

import hpc_bnn as hb
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.config.settings import TrainSettings
from hpc_bnn.train.run.log import unsuitable


def posterior(name: str) -> Posterior:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    if name == "gaussian":
        return hb.Gaussian(network)
    members: dict[str, Any] = {
        "ensemble": hb.Ensemble,
        "swag": hb.SWAG,
        "sgld": hb.SGLD,
        "sghmc": hb.SGHMC,
    }
    made: Posterior = members[name](network, samples=2)
    return made


@pytest.mark.parametrize("name", ["gaussian", "ensemble", "swag", "sghmc"])
def test_a_moving_average_is_kept_only_where_it_is_predicted_with(name: str) -> None:
    world = hb.start(device="cpu")
    trained = posterior(name)
    optimizer = trained.optimizer(0.1) or torch.optim.SGD(trained.parameters(), lr=0.1)
    loss = hb.losses.categorical_nll()
    options: dict[str, Any] = {"samples": 2, "num_examples": 8, "ema": 0.9}
    if name in ("gaussian", "ensemble"):
        assert hb.Step(trained, loss, optimizer, world, **options).ema is not None
        return
    with pytest.raises(ValueError, match=r"train\.ema = 0\.9: \w+ predicts with what it collects"):
        hb.Step(trained, loss, optimizer, world, **options)


@pytest.mark.parametrize(
    ("name", "settings", "keys"),
    [
        ("gaussian", {"clip_norm": 1.0}, []),
        ("ensemble", {"clip_norm": 1.0}, []),
        ("swag", {"clip_norm": 1.0}, ["train.schedule"]),
        ("swag", {"schedule": "constant"}, []),
        ("swag", {"lr": 0.1, "lr_min": 0.1}, []),
        ("sgld", {"clip_norm": 1.0}, ["train.schedule", "train.clip_norm"]),
        ("sghmc", {"clip_norm": 1.0, "schedule": "constant"}, ["train.clip_norm"]),
        ("sghmc", {"schedule": "constant"}, []),
    ],
)
def test_a_rate_that_falls_and_clipped_gradients(
    name: str, settings: dict[str, object], keys: list[str]
) -> None:
    training = TrainSettings.model_validate({"steps": 4, **settings})
    assert [text.partition(" =")[0] for text in unsuitable(training, posterior(name))] == keys
