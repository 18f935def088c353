"""Forecasts by a network that differentiates in its forward pass, as those of energies do."""

import sys
from pathlib import Path

import pytest
from toy_weather import ALONE_WORLD, toy_settings, toy_source, write_small_toy

from hpc_bnn.config import Settings
from hpc_bnn.fields import times
from hpc_bnn.train.run.build import build
from hpc_bnn.train.score.forecast import forecast, plan_forecast
from hpc_bnn.train.score.trained import Trained

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, shape_in, shape_out):
        super().__init__()
        self.energy = torch.nn.Conv2d(shape_in[0], 3, 3, padding=1)
        self.last = torch.nn.Conv2d(shape_in[0], shape_out[0], 1)

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.energy(x).square().sum()
            (force,) = torch.autograd.grad(energy, x, create_graph=self.training)
        return self.last(force)
"""


def test_it_forecasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net_of_forces.py").write_text(NET, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    toy = write_small_toy(tmp_path / "toy")
    content = {**toy_settings(toy), "model": {"name": "net_of_forces:Net"}}
    settings = Settings.model_validate(content)
    trained = Trained(settings, build(settings, toy_source(toy)), 0)
    start = times.parse("2001-03-05T12:00", end=False)
    plan = plan_forecast(trained, [start, start + 12 * 3600], steps=2, members=2, is_set=True)
    forecast(trained, ALONE_WORLD, tmp_path / "set", plan)
    assert len(list((tmp_path / "set").glob("*.nc"))) == 2
    sys.modules.pop("net_of_forces")
