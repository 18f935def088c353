"""Points where the training never changed: what stands there is no event by rounding."""

from pathlib import Path

import pytest
import torch
from toy_weather import ALONE_WORLD, toy_source, toy_trained, write_small_toy

from hpc_bnn.train.score.bands import HeldForecasts
from hpc_bnn.train.score.climatology_fit import fit_climatology
from hpc_bnn.train.score.rollout import Rollout


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_state_that_never_changes_is_its_climatology_to_the_bit(
    tmp_path: Path, precision: str
) -> None:
    folder = write_small_toy(tmp_path / "toy")  # its v10 is 0 at both poles
    changes = {"train": {"precision": precision}}
    source = toy_source(folder, **changes)
    trained = toy_trained(folder, source, **changes)
    rollout = Rollout(trained.parts, torch.device("cpu"))
    climatology = fit_climatology(rollout, ALONE_WORLD, source.output_shape, 4000)
    valid = rollout.fields.test_times[:3]
    states = rollout.states(valid)
    held = HeldForecasts(
        fields=rollout.fields,
        climatology=climatology,
        device=torch.device("cpu"),
        members=[states],
        truth=states,
        persistence=states,
        valid=valid,
    )
    channel = rollout.fields.names.index("v10")
    constant = 0
    for _, band in held.bands(channel):
        certain = band.climatology_std == 0
        constant += int(certain.sum())
        assert torch.equal(band.truth[:, certain], band.climatology[:, certain])
        assert not torch.equal(band.truth, band.climatology)
    assert constant >= 2 * 16
