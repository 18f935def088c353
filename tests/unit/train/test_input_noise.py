"""Training on states that are wrong: what the network is given and what it is asked for, and which
settings of noise are refused.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS, field_source
from toy_weather import toy_settings, toy_source, write_small_toy

from hpc_bnn.bayes.noise import Key
from hpc_bnn.config import CONFIGS, Settings, SettingsError, load_settings
from hpc_bnn.data.source import Fields
from hpc_bnn.fields.perturb.perturbation import Perturbation
from hpc_bnn.train.run.build import build, check_choices, step_settings
from hpc_bnn.train.step.input_noise import InputNoise

S, B, STEPS = 3, 4, 2
KEY = Key(1, 2, tuple(range(S)))


def noise_and_fields() -> tuple[InputNoise, Fields]:
    fields = field_source(history=2).fields
    assert fields is not None
    perturbation = Perturbation(fields, name="gaussian", scale=0.5, unit="state", options={})
    return InputNoise(perturbation, fields), fields


@pytest.mark.parametrize("views", [False, True])
def test_states_are_wrong_and_the_forcing_is_not(views: bool) -> None:
    noise_of, _ = noise_and_fields()
    x = torch.randn(B, 2 * CHANNELS + FORCING, ROWS, COLUMNS, dtype=torch.float64)
    noise = noise_of.draw(KEY, like=x, first=0)
    assert noise.shape == (S, B, CHANNELS, ROWS, COLUMNS)
    made = noise_of.inputs(torch.stack([x] * S) if views else x, noise) - x
    torch.testing.assert_close(made[:, :, :CHANNELS], noise, rtol=0, atol=1e-12)
    torch.testing.assert_close(made[:, :, CHANNELS:-FORCING], noise, rtol=0, atol=1e-12)
    assert bool((made[:, :, -FORCING:] == 0).all())


def test_a_network_that_knows_the_truth_is_right() -> None:
    """It leads from the wrong start to the true state of each lead time; a predicted variance is
    left as it is.
    """
    noise_of, fields = noise_and_fields()
    true = torch.randn(B, STEPS + 1, CHANNELS, ROWS, COLUMNS, dtype=torch.float64)
    ratio = (fields.state_std / fields.tendency_std)[:, None, None]
    y = (true[:, 1:] - true[:, :1]) * ratio
    noise = noise_of.draw(KEY, like=true[:, 0], first=0)
    start = true[:, 0] + noise
    change = (true[None, :, 1:] - start[:, :, None]) * ratio
    outputs = torch.cat([change, torch.ones_like(change)], 3).flatten(1, 2)
    made = noise_of.outputs(outputs, noise)
    torch.testing.assert_close(made[:, :, :CHANNELS], torch.stack([y.flatten(0, 1)] * S))
    assert bool((made[:, :, CHANNELS:] == 1).all())


def test_noise_belongs_to_sample_and_place_in_the_batch() -> None:
    noise_of, _ = noise_and_fields()
    like = torch.zeros(B, 1, ROWS, COLUMNS, dtype=torch.float64)
    whole = noise_of.draw(replace(KEY, step=7), like=like, first=0)
    for sample in range(S):
        for place in range(B):
            alone = noise_of.draw(Key(1, 7, (sample,)), like=like[:1], first=place)[0, 0]
            torch.testing.assert_close(alone, whole[sample, place], rtol=0, atol=0)
    drawn = [
        *whole.flatten(0, 1),
        *noise_of.draw(replace(KEY, step=8), like=like, first=0).flatten(0, 1),
    ]
    for i, one in enumerate(drawn):
        assert all(bool((one != other).all()) for other in drawn[:i])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


def test_it_is_only_there_where_it_is_asked_for(folder: Path) -> None:
    for at in ("forecasts", "training", "both"):
        perturb = {"name": "gaussian", "scale": 0.1, "at": at}
        content = toy_settings(folder, perturb=perturb)
        settings = Settings.model_validate(content)
        parts = build(settings, toy_source(folder))
        assert (parts.perturbation is not None) == (at != "training")
        assert (step_settings(settings, parts).input_noise is not None) == (at != "forecasts")


SIZES = "expected a number of at least 0, or such numbers by channel, such as {t2m: 0.1}"
REFUSED: dict[str, str] = {
    "{name: spheric, scale: 1}": "perturb.name = 'spheric': expected one of gaussian, spherical; "
    "did you mean spherical?",
    "{name: gaussian, scale: -1}": f"perturb.scale = -1: {SIZES}",
    "{name: gaussian, scale: {t2m: -0.5}}": f"perturb.scale = {{'t2m': -0.5}}: {SIZES}",
    "{name: gaussian, scale: {}}": f"perturb.scale = {{}}: {SIZES}",
    "{name: gaussian, scale: much}": f"perturb.scale = 'much': {SIZES}",
    "{name: gaussian}": "perturb.scale: missing",
    "{name: gaussian, scale: 1, length_km: 500.0}": "perturb.length_km: unknown key",
    "{name: spherical, scale: 1, length_km: -5.0}": "perturb.length_km = -5.0: input should be",
    "{name: gaussian, scale: 1, at: noon}": "perturb.at = 'noon': input should be 'forecasts', 'tr",
    "{name: gaussian, scale: 1, unit: K}": "perturb.unit = 'K': input should be 'change' or",
}


@pytest.mark.parametrize("value", REFUSED)
def test_noise_that_cannot_be_is_refused(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_choices(load_settings(CONFIGS / "demo.yaml", [f"perturb={value}"]), "command line")
    (problem,) = caught.value.problems
    assert problem.startswith(f"command line: {REFUSED[value]}")


def test_later_states_that_there_are_not_are_refused() -> None:
    override = "perturb={name: gaussian, scale: 0.1, at: training, redraw: each_step}"
    with pytest.raises(SettingsError) as caught:
        check_choices(load_settings(CONFIGS / "demo.yaml", [override]), "x")
    (problem,) = caught.value.problems
    assert problem.startswith(
        "x: perturb.redraw = 'each_step': perturb.at = 'training' and train.r"
    )
    for more in ("train.rollout={0: 2}", "perturb.at=both"):
        check_choices(load_settings(CONFIGS / "demo.yaml", [override, more]), "x")


def test_data_without_states_are_refused() -> None:
    override = "perturb={name: gaussian, scale: 0.1}"
    with pytest.raises(SettingsError, match=r"perturb\.name = 'gaussian': data\.name = 'digits'"):
        check_choices(load_settings(CONFIGS / "vit_digits.yaml", [override]), "x")


@pytest.mark.parametrize(
    ("perturb", "message"),
    [
        (
            {"name": "gaussian", "scale": {"t2": 0.1}},
            r"perturb\.scale: no channel 't2'",
        ),
        ({"name": "spherical", "scale": 0.1}, r"perturb\.length_km = 1000: the grid of 7 x 16"),
    ],
)
def test_noise_that_does_not_fit_the_fields_is_refused(
    folder: Path, perturb: dict[str, Any], message: str
) -> None:
    settings = Settings.model_validate(toy_settings(folder, perturb=perturb))
    with pytest.raises(SettingsError, match=message):
        build(settings, toy_source(folder))
