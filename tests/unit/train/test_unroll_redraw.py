"""Rollouts in training whose weights, or masks, are drawn anew at each lead time.

Letters: S samples, B examples, n steps, C channels, H latitude, W longitude.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS
from tape import Tape, noise_on_tape
from test_unroll import (
    LOSSES,
    SAMPLES,
    Net,
    Toy,
    batch_of,
    fields_of,
    objective_of,
    written_out,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from toy_step import alone

from hpc_bnn import bayes, losses
from hpc_bnn.bayes.noise import REDRAWN, Key, Purpose, Stream, normals
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.models.swin import Swin
from hpc_bnn.train.step import passes
from hpc_bnn.train.step.step import Step
from hpc_bnn.train.step.unroll import Unroll

STEPS = 3


def toy(name: str = "crps", posterior: Posterior | None = None, **options: Any) -> Toy:
    return Toy(LOSSES[name](), posterior=posterior, redraw="each_step", **options)


def objective(made: Toy, x: Tensor, y: Tensor) -> Tensor:
    """Return the objective by plain autograd, with weights mu + sigma * eps of each lead time."""
    posterior = made.posterior
    means = dict(posterior.module.named_parameters())

    def weights(sample: int, lead: int) -> dict[str, Tensor]:
        stream = Stream(posterior.seed, Purpose.WEIGHTS, 0, sample + REDRAWN * lead)
        drawn, offset = {}, 0
        for name in posterior.names:
            mu, log_sigma = means[name], posterior.log_sigma[name.replace(".", "/")]
            drawn[name] = mu + log_sigma.exp() * normals(stream, mu.shape, offset=offset).double()
            offset += mu.numel()
        return drawn

    def outputs_of(sample: int) -> Tensor:
        drawn = iter([weights(sample, lead) for lead in range(STEPS)])

        def network(own: Tensor) -> Tensor:
            return functional_call(posterior.module, next(drawn), (own,))

        return written_out(made, x, STEPS, network, 1)

    return objective_of(made, torch.stack([outputs_of(s) for s in range(SAMPLES)], 1), y)


@pytest.mark.parametrize("together", [True, False], ids=["one draw", "a draw a pass"])
@pytest.mark.parametrize("options", [{}, {"samples_per_pass": 3}, {"keep_graphs": True}], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_weights_of_each_lead_time(
    name: str, options: dict[str, Any], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mu has the sum of the gradients g of all lead times, log_sigma that of sigma eps g."""
    if not together:
        monkeypatch.setattr(passes, "LARGEST", 0)
    made, (x, y) = toy(name, **options), batch_of(STEPS)
    got, gradients = made.run(x, y)
    expected = objective(made, x, y)
    assert got == pytest.approx(expected.item(), rel=1e-12)
    for gradient, wanted in zip(
        gradients, torch.autograd.grad(expected, made.parameters), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=1e-12)
    kept = Toy(LOSSES[name](), **options).run(x, y)
    assert abs(kept[0] - got) > 1e-3


@pytest.mark.parametrize("name", ["crps", "nll predicted"])
def test_one_step_is_as_ever(name: str) -> None:
    x, y = batch_of(1)
    drawn, plain = toy(name).run(x, y), Toy(LOSSES[name]()).run(x, y)
    assert drawn[0] == plain[0]
    assert all(map(torch.equal, drawn[1], plain[1]))


class Blocks(nn.Module):
    """Convolutions of which the one in the middle may run again in backward."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.one = nn.Conv2d(CHANNELS + FORCING, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.three = nn.Conv2d(4, CHANNELS, 1)
        self._reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x, again = torch.tanh(self.one(x)), self._reentrant
        if again is None:
            return self.three(torch.tanh(self.two(x)).square())
        x = checkpoint(lambda own: torch.tanh(self.two(own)).square(), x, use_reentrant=again)
        return self.three(x)


@pytest.mark.parametrize("together", [True, False], ids=["one draw", "a draw a pass"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_run_again_have_the_weights_of_their_lead_time(
    reentrant: bool, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not together:
        monkeypatch.setattr(passes, "LARGEST", 0)
    batch = batch_of(STEPS)
    again, kept = (toy(network=Blocks(how)).run(*batch) for how in (reentrant, None))
    assert again[0] == kept[0]
    assert all(map(torch.equal, again[1], kept[1]))


@pytest.mark.parametrize("depths", [[2, 0, 0, 2], [0, 2, 2, 0]])
def test_a_swin_that_recomputes_its_blocks(depths: list[int]) -> None:
    batch, runs = batch_of(STEPS), []
    for recompute in (True, False):
        torch.manual_seed(5)
        swin = Swin(
            (CHANNELS + FORCING, ROWS, COLUMNS),
            (CHANNELS, ROWS, COLUMNS),
            width=4,
            depths=depths,
            heads=[2] * 4,
            window=[1, 1],
            recompute=recompute,
        )
        runs.append(toy(network=swin).run(*batch))
    assert runs[0][0] == runs[1][0]
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


def net(dropout: float = 0.0) -> Net:
    torch.manual_seed(3)
    return Net(CHANNELS + FORCING, CHANNELS, dropout=dropout).double()


METHODS: dict[str, Callable[[], Posterior]] = {
    "antithetic": lambda: bayes.Gaussian(net(), initial_sigma=0.1, antithetic=True, seed=4),
    "keep_noise": lambda: bayes.Gaussian(net(), initial_sigma=0.1, keep_noise=True, seed=4),
    "low_rank": lambda: bayes.LowRank(net(), initial_sigma=0.1, rank=2, seed=4),
    "rank1": lambda: bayes.Rank1(net(), initial_sigma=0.1, seed=4),
    "with dropout": lambda: bayes.Gaussian(net(0.4), initial_sigma=0.1, seed=4),
    "dropout": lambda: bayes.Dropout(net(0.4), seed=4),
    "dropout of samples": lambda: bayes.Dropout(net(0.4), masks="sample", seed=4),
}


@pytest.mark.parametrize("keep_graphs", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_that_draws(
    method: str, keep_graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that keep activations and graphs, or make them again, are the same."""
    batch = batch_of(STEPS)
    value, gradients = toy(posterior=METHODS[method](), keep_graphs=keep_graphs).run(*batch)
    assert value != Toy(losses.fair_crps(), posterior=METHODS[method]()).run(*batch)[0]
    monkeypatch.setattr(passes, "LARGEST", 0)

    def keep(function: Callable[..., Tensor], *args: Any, **_: Any) -> Tensor:
        return function(*args)

    monkeypatch.setattr("hpc_bnn.train.step.unroll.checkpoint", keep)
    again, others = toy(posterior=METHODS[method]()).run(*batch)
    assert again == pytest.approx(value, rel=1e-14)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-14)


class Drop(nn.Module):
    """Dropout of the forcing alone, which tells the masks of the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.drop = nn.Linear(1, 1).double(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = self.drop(x[:, -FORCING:].expand(-1, CHANNELS, -1, -1))
        return kept + functional.linear(torch.zeros_like(kept), self.one.weight)


@pytest.mark.parametrize("masks", ["example", "sample"])
@pytest.mark.parametrize("redraw", ["never", "each_step"])
def test_masks_are_kept_or_drawn_anew(masks: Any, redraw: Any) -> None:
    seen: list[Tensor] = []

    class Seeing(losses.SeparableLoss):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            seen.append(output.detach())
            return output.square().mean((1, 2, 3))

    posterior, columns = bayes.Dropout(Drop(), masks=masks, seed=4), 50
    step = Step(posterior, Seeing(), torch.optim.SGD(posterior.parameters(), lr=0.1), alone(),
                samples=1, num_examples=1, precision="float64", unroll=Unroll(fields_of()),
                redraw=redraw)  # fmt: skip
    x = torch.ones(20, CHANNELS + STEPS * FORCING, columns, 1, dtype=torch.float64)
    step(x, torch.zeros(20, STEPS, CHANNELS, columns, 1, dtype=torch.float64))
    changes = (
        seen[-1]
        .unflatten(0, (20, STEPS))
        .diff(dim=1, prepend=torch.zeros(20, 1, CHANNELS, columns, 1))
    )
    kept = (changes > 1).double().flatten(2)  # (B, n, C H)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        alike = float((kept[:, a] == kept[:, b]).double().mean())
        assert alike == (1.0 if redraw == "never" else pytest.approx(0.5, abs=0.2))


@pytest.mark.parametrize("method", ["gaussian", "low_rank", "dropout", "dropout of samples"])
@pytest.mark.parametrize("name", ["crps", "nll predictive", "moments"])
def test_captured_passes(method: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = Tape()
    noise_on_tape(tape, monkeypatch)
    runs = []
    for recorder in (tape, None):
        posterior = METHODS[method]() if method in METHODS else None
        made = toy("crps" if posterior else name, posterior)
        made.step.optimizer.param_groups[0]["lr"] = 0.05
        made.step._capture.recorder = recorder
        values = [float(made.step(*batch_of(STEPS))) for _ in range(4)]
        runs.append([*values, *torch.cat([p.detach().flatten() for p in made.parameters]).tolist()])
    assert tape.captures and tape.replays
    assert runs[0] == pytest.approx(runs[1], rel=1e-11, abs=1e-11)


def test_compiled_passes() -> None:
    """Also the first, which is not compiled while the steps that backward runs again would be."""
    torch._dynamo.reset()
    batch = batch_of(STEPS)
    compiled, plain = toy(compile=True), toy()
    for _ in range(2):
        value, gradients = compiled.run(*batch)
        expected, others = plain.run(*batch)
        assert value == pytest.approx(expected, rel=1e-12)
        for gradient, other in zip(gradients, others, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-10, atol=1e-12)


def test_keys_of_draws_differ() -> None:
    key = Key(1, 2, (0, 5), Purpose.WEIGHTS)
    assert key.redrawn(0) == key
    assert key.redrawn(3).samples == (3 * REDRAWN, 3 * REDRAWN + 5)
    with pytest.raises(ValueError, match="weight sample 65536: 0 to 65535 can be drawn anew"):
        Key(1, 2, (REDRAWN,)).redrawn(1)


@pytest.mark.parametrize("method", ["Ensemble", "SWAG"])
def test_members_have_nothing_to_draw(method: str) -> None:
    posterior = getattr(bayes, method)(net(), samples=SAMPLES)
    with pytest.raises(ValueError, match=rf"train.redraw = 'each_step': the samples of {method} "):
        toy(posterior=posterior)
