"""A last-layer Laplace posterior of a run that has members."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.laplace import fit_laplace
from hpc_bnn.train.score.trained import load_trained

CONTENT: dict[str, Any] = {
    "posterior": {"name": "ensemble", "samples": 3, "predict_samples": 12},
    "loss": {"name": "gaussian_nll", "variance": "learned"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"steps": 4, "batch_size": 12, "precision": "float64", "device": "cpu"},
}


def test_a_member_of_a_run(tmp_path: Path) -> None:
    """It has no mean, but each member is a network."""
    world = start(ALONE, device="cpu")
    run, target = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "laplace")
    train(Settings.model_validate(CONTENT), world, run)
    with pytest.raises(ValueError, match=r"has 3 members, and .*: name one, such as --sample 0"):
        fit_laplace(world, run, target)
    with pytest.raises(ValueError, match=r"--sample 3: the run has the samples 0 to 2"):
        fit_laplace(world, run, target, sample=3)
    assert fit_laplace(world, run, target, sample=2)["sample"] == 2
    network, members = load_trained(world, target), load_trained(world, run)
    member = members.parts.posterior.to_module(2)
    for name, parameter in network.parts.posterior.module.named_parameters():
        assert torch.equal(parameter, member.get_parameter(name))
