"""Rollouts in training whose states have noise of their own at each lead time.

Letters: S samples, B examples, n steps, C channels, H latitude, W longitude.
"""

from typing import Any

import pytest
import torch
from test_unroll import LOSSES, SAMPLES, Toy, batch_of, fields_of, objective_of
from torch import Tensor
from torch.func import functional_call

from hpc_bnn.bayes.noise import REDRAWN, Purpose, Stream, normals
from hpc_bnn.config.forecast_settings import Redraw
from hpc_bnn.fields.perturb.perturbation import Perturbation
from hpc_bnn.train.step.input_noise import InputNoise

STEPS, SCALE = 3, 0.4


def toy(name: str, redraw: Redraw = "each_step", *, history: int = 1, **options: Any) -> Toy:
    fields = fields_of(history=history)
    noise = Perturbation(
        fields, name="gaussian", scale=SCALE, unit="state", options={}, redraw=redraw
    )
    return Toy(LOSSES[name](), history=history, input_noise=InputNoise(noise, fields), **options)


def objective(made: Toy, x: Tensor, y: Tensor, history: int) -> Tensor:
    """Return the objective by plain autograd: each state, wrong by noise, is stepped forward."""
    fields, posterior = made.fields, made.posterior
    ratio = (fields.tendency_std / fields.state_std)[:, None, None]
    drawn = posterior.sample(posterior.key(0, range(SAMPLES)))
    channels, forced = len(fields.channels), len(fields.forcing)
    true, forcing = x.tensor_split([history * channels], 1)

    def outputs_of(sample: int) -> Tensor:
        weights = {name: weight[sample] for name, weight in drawn.items()}
        states, outputs = list(true.split(channels, 1)), []
        start = states[-1]
        for lead in range(STEPS):
            stream = Stream(posterior.seed, Purpose.PERTURBED_INPUT, 0, sample + REDRAWN * lead)
            noise = SCALE * normals(stream, start.shape).double()
            wrong = [state + noise for state in states[-history:]]
            own = forcing[:, lead * forced : (lead + 1) * forced]
            output = functional_call(posterior.module, weights, (torch.cat([*wrong, own], 1),))
            states.append(wrong[-1] + ratio * output[:, :channels])
            outputs.append(torch.cat([(states[-1] - start) / ratio, output[:, channels:]], 1))
        return torch.stack(outputs)

    return objective_of(made, torch.stack([outputs_of(s) for s in range(SAMPLES)], 1), y)


@pytest.mark.parametrize("history", [1, 2])
@pytest.mark.parametrize("options", [{}, {"samples_per_pass": 3}, {"keep_graphs": True}], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_noise_at_each_lead_time(
    name: str, options: dict[str, Any], history: int
) -> None:
    made, (x, y) = toy(name, history=history, **options), batch_of(STEPS, history=history)
    got, gradients = made.run(x, y)
    expected = objective(made, x, y, history)
    assert got == pytest.approx(expected.item(), rel=1e-12)
    wanted = torch.autograd.grad(expected, made.parameters)
    torch.testing.assert_close(gradients, list(wanted), rtol=1e-12, atol=1e-12)
    of_starts = toy(name, "never", history=history, **options).run(x, y)
    assert abs(of_starts[0] - got) > 1e-3


@pytest.mark.parametrize("unroll", [True, False])
@pytest.mark.parametrize("name", ["crps", "nll predicted"])
def test_one_step_is_as_that_of_noise_on_the_start(name: str, unroll: bool) -> None:
    x, y = batch_of(1)
    anew, plain = toy(name, unroll=unroll).run(x, y), toy(name, "never").run(x, y)
    assert anew[0] == plain[0]
    assert all(map(torch.equal, anew[1], plain[1]))
