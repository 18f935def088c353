"""Rollouts in training against steps written out: values, gradients, memory, dropout.

Letters: S samples, B examples, n steps, C channels, F forcing channels, H latitude, W longitude.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS, START_S, STEP_S, field_source
from torch import Tensor, nn
from torch.nn import functional
from toy_step import alone

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.data.source import Fields
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.swin import Swin
from hpc_bnn.train.plan.live_memory import LiveMemory
from hpc_bnn.train.run.build import Parts
from hpc_bnn.train.score.rollout import Rollout
from hpc_bnn.train.step import passes
from hpc_bnn.train.step.settings import Precision
from hpc_bnn.train.step.step import Step
from hpc_bnn.train.step.unroll import Unroll

EXAMPLES, SAMPLES = 3, 4
NUM_EXAMPLES = 50


class Net(nn.Module):
    """A convolution, perhaps dropout as a module or as a function, a convolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 5,
        dropout: float = 0.0,
        hidden: bool = False,
    ) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, width, 3, padding=1)
        self.two = nn.Conv2d(width, outputs, 1)
        self.drop = nn.Identity() if hidden or not dropout else nn.Dropout(dropout)
        self._p = dropout if hidden else 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.tanh(self.one(x)))
        x = functional.dropout(x, self._p, self.training) if self._p else x
        result: Tensor = self.two(x)
        return result


def fields_of(*, history: int = 1, forced: bool = True, present: Tensor | None = None) -> Fields:
    fields = field_source(history=history, present=present).fields
    assert fields is not None
    return fields if forced else replace(fields, forcing=())


def batch_of(steps: int, *, history: int = 1, forced: bool = True) -> tuple[Tensor, Tensor]:
    """Return x and y of a rollout, float64."""
    generator = torch.Generator().manual_seed(20 + history)
    channels = history * CHANNELS + (FORCING if forced else 0)
    later = torch.randn(EXAMPLES, 9, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    if not forced:
        later.zero_()
    x = torch.randn(EXAMPLES, channels, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    y = torch.randn(EXAMPLES, 9, CHANNELS, ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    return torch.cat([x, later[:, : steps - 1]], 1), y[:, :steps] if steps > 1 else y[:, 0]


class Toy:
    """A posterior on fields and a step over it."""

    def __init__(
        self,
        loss: Loss,
        *,
        history: int = 1,
        forced: bool = True,
        unroll: bool = True,
        net: dict[str, Any] | None = None,
        network: nn.Module | None = None,
        posterior: Posterior | None = None,
        present: Tensor | None = None,
        precision: Precision = "float64",
        **options: Any,
    ) -> None:
        dtype = torch.float64 if precision == "float64" else torch.float32
        self.fields = fields_of(history=history, forced=forced, present=present)
        self.loss = loss.to(dtype)
        torch.manual_seed(3)
        inputs = history * CHANNELS + (FORCING if forced else 0)
        outputs = loss.output_shape((CHANNELS, ROWS, COLUMNS))[0]
        network = network or Net(inputs, outputs, **(net or {}))
        self.posterior = posterior or Gaussian(network.to(dtype), initial_sigma=0.1, seed=4)
        self.parameters = [*self.posterior.parameters(), *self.loss.parameters()]
        self.step = Step(
            self.posterior,
            self.loss,
            torch.optim.SGD(self.parameters, lr=0.0),
            alone(),
            samples=SAMPLES,
            num_examples=NUM_EXAMPLES,
            precision=precision,
            unroll=Unroll(self.fields) if unroll else None,
            **options,
        )

    def run(self, x: Tensor, y: Tensor) -> tuple[float, list[Tensor]]:
        value = float(self.step(x, y))
        return value, [p.grad.clone() for p in self.parameters if p.grad is not None]


def written_out(
    toy: Toy, x: Tensor, steps: int, network: Callable[[Tensor], Tensor], history: int
) -> Tensor:
    """Return the outputs (n, B, C', H, W) of one sample, step after step, in physical units."""
    scale = [
        v[:, None, None]
        for v in (toy.fields.state_mean, toy.fields.state_std, toy.fields.tendency_std)
    ]
    mean, std, tendency_std = scale
    forced = len(toy.fields.forcing)
    normalised = list(x[:, : history * CHANNELS].split(CHANNELS, 1))
    states = [mean + std * state for state in normalised]
    forcing = x[:, history * CHANNELS :]
    start, outputs = states[-1], []
    for lead in range(steps):
        newest = [(state - mean) / std for state in states[-history:]]
        own = forcing[:, lead * forced : (lead + 1) * forced]
        output = network(torch.cat([*newest, own], 1))
        states.append(states[-1] + tendency_std * output[:, :CHANNELS])
        change = (states[-1] - start) / tendency_std
        if toy.fields.present is not None:
            states[-1] = torch.where(toy.fields.present, states[-1], mean)
        outputs.append(torch.cat([change, output[:, CHANNELS:]], 1))
    return torch.stack(outputs)


LOSSES: dict[str, Callable[[], Loss]] = {
    "crps": losses.fair_crps,
    "moments": lambda: losses.gaussian_moments(sigma=0.7, learned=True),
    "nll predicted": lambda: losses.gaussian_nll(variance="predicted"),
    "nll learned": lambda: losses.gaussian_nll(variance="learned"),
    "nll predictive": lambda: losses.gaussian_nll(variance="predicted", predictive=True),
}


MASKED: dict[str, Callable[[Tensor | None], Loss]] = {
    "crps": lambda present: losses.fair_crps(present=present),
    "nll predicted": lambda present: losses.gaussian_nll(variance="predicted", present=present),
}


def objective_of(toy: Toy, outputs: Tensor, y: Tensor) -> Tensor:
    """Return the objective of outputs (n, S, B, C', H, W) for targets (B, n, C, H, W): the mean
    over lead times of the loss of one step.
    """
    total = torch.zeros((), dtype=torch.float64)
    for lead, members in enumerate(outputs):
        truth = y[:, lead]
        if isinstance(toy.loss, losses.SeparableLoss):
            values = torch.stack([toy.loss(member, truth) for member in members]).mean(0)
        else:
            values = toy.loss(members, truth, ALONE)
        total = total + values.mean() / len(outputs)
    return total + toy.posterior.complexity() / NUM_EXAMPLES


def plain_objective(toy: Toy, x: Tensor, y: Tensor, steps: int, history: int) -> Tensor:
    """Return the objective by plain autograd."""
    weights = toy.posterior.sample(toy.posterior.key(0, range(SAMPLES)))
    outputs = torch.stack(
        [
            written_out(
                toy,
                x,
                steps,
                lambda inputs, s=s: torch.func.functional_call(  # type: ignore[misc]
                    toy.posterior.module, {n: w[s] for n, w in weights.items()}, (inputs,)
                ),
                history,
            )
            for s in range(SAMPLES)
        ]
    )  # (S, n, B, C', H, W)
    return objective_of(toy, outputs.transpose(0, 1), y if steps > 1 else y[:, None])


@pytest.mark.parametrize("samples_per_pass", [1, 3, SAMPLES])
@pytest.mark.parametrize(("history", "forced"), [(1, True), (2, True), (2, False)])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_of_three_steps(
    name: str, history: int, forced: bool, samples_per_pass: int
) -> None:
    toy = Toy(LOSSES[name](), history=history, forced=forced, samples_per_pass=samples_per_pass)
    x, y = batch_of(3, history=history, forced=forced)
    got, gradients = toy.run(x, y)
    objective = plain_objective(toy, x, y, 3, history)
    expected = torch.autograd.grad(objective, toy.parameters)
    assert got == pytest.approx(objective.item(), rel=1e-12)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("samples_per_pass", [1, 3])
@pytest.mark.parametrize("name", MASKED)
def test_points_without_values_are_fed_back_as_the_mean(name: str, samples_per_pass: int) -> None:
    """And count in no lead time; by hand, where a convolution mixes neighbours."""
    there = torch.ones(CHANNELS, ROWS, COLUMNS, dtype=torch.bool)
    there[0, 1, 1:] = there[1, :2, 0] = False

    def toy(mask: Tensor | None = there) -> Toy:
        loss = MASKED[name](mask)
        return Toy(loss, history=2, present=there, samples_per_pass=samples_per_pass)

    x, y = batch_of(3, history=2)
    x[:, : 2 * CHANNELS] *= there.repeat(2, 1, 1)
    y = y * there
    masked = toy()
    got, gradients = masked.run(x, y)
    objective = plain_objective(masked, x, y, 3, 2)
    assert got == pytest.approx(objective.item(), rel=1e-12)
    expected = torch.autograd.grad(objective, masked.parameters)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)
    other = torch.where(there, y, 100.0)
    assert toy().run(x, other)[0] == got
    assert toy(None).run(x, other)[0] != toy(None).run(x, y)[0]


@pytest.mark.parametrize("keep_graphs", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_one_step_gives_the_same_bits_as_without(name: str, keep_graphs: bool) -> None:
    x, y = batch_of(1)
    runs = [
        Toy(LOSSES[name](), unroll=unroll, keep_graphs=keep_graphs).run(x, y)
        for unroll in (True, False)
    ]
    assert runs[0][0] == runs[1][0]
    assert all(map(torch.equal, runs[0][1], runs[1][1]))


def none() -> tuple[nullcontext[None], nullcontext[None]]:
    return nullcontext(), nullcontext()


def test_steps_are_those_of_a_forecast() -> None:
    """What is trained on is what ``Rollout`` makes: bit for bit in the same precision."""
    source = field_source(history=2)
    fields = source.fields
    assert fields is not None
    posterior = Gaussian(Net(2 * CHANNELS + FORCING, CHANNELS))
    rollout = Rollout(Parts(source, posterior, losses.crps(), None), torch.device("cpu"))
    starts = START_S + STEP_S * torch.tensor([3, 6])
    history, network = rollout.history(starts), posterior.network(0)
    forcing = [fields.record.forcing(starts + lead * STEP_S) for lead in range(3)]
    x, start = torch.cat([history.flatten(1, 2), *forcing], 1), history[:, -1]
    got = Unroll(fields)(x, lambda x, views, lead: network(x[0] if views else x)[None],
                         views=False, contexts=none)  # fmt: skip
    got = got.unflatten(1, (2, 3))[0]
    ratio = (fields.state_std / fields.tendency_std)[:, None, None].float()
    for lead in range(3):
        history = rollout.advance(history, starts, lead, 0, network)
        torch.testing.assert_close(got[:, lead], (history[:, -1] - start) * ratio)


# Running steps again in backward.


@pytest.fixture
def keep_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes every step keep its activations from then on."""

    def keep(function: Callable[..., Tensor], *args: Any, **_: Any) -> Tensor:
        return function(*args)

    return lambda: monkeypatch.setattr("hpc_bnn.train.step.unroll.checkpoint", keep)


@pytest.mark.parametrize("hidden", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("name", ["crps", "nll predicted"])
def test_backward_drops_what_forward_dropped(
    name: str, hidden: bool, keep_steps: Callable[[], None]
) -> None:
    x, y, dropping = *batch_of(4), {"dropout": 0.4, "hidden": hidden}
    loss, gradients = Toy(LOSSES[name](), net=dropping).run(x, y)
    without, _ = Toy(LOSSES[name]()).run(x, y)
    assert loss != without
    keep_steps()
    kept_loss, kept = Toy(LOSSES[name](), net=dropping).run(x, y)
    assert loss == kept_loss
    assert all(map(torch.equal, gradients, kept))


def test_every_step_drops_anew() -> None:
    """A network of dropout alone: what is kept of the forcing tells the masks of the steps."""

    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(1, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            state = x[:, -FORCING:].expand(-1, CHANNELS, -1, -1)
            return functional.dropout(state, training=self.training) + self.one.bias

    toy = Toy(losses.gaussian_nll())
    toy.posterior = Gaussian(Drop(), initial_sigma=1e-6, seed=4)
    seen: list[Tensor] = []

    class Seeing(losses.SeparableLoss):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            seen.append(output.detach())
            return output.square().mean((1, 2, 3))

    optimizer = torch.optim.SGD(toy.posterior.parameters(), lr=0.1)
    step = Step(toy.posterior, Seeing(), optimizer, alone(), samples=1, num_examples=1,
                precision="float64", unroll=Unroll(toy.fields))  # fmt: skip
    x = torch.ones(200, CHANNELS + 3 * FORCING, 1, 1, dtype=torch.float64)
    step(x, torch.zeros(200, 3, CHANNELS, 1, 1, dtype=torch.float64))
    changes = (
        seen[-1].unflatten(0, (200, 3)).diff(dim=1, prepend=torch.zeros(200, 1, CHANNELS, 1, 1))
    )
    masks = (changes > 1).double().flatten(2)  # (B, n, C): kept values are 2, dropped ones 0
    assert float(masks.mean()) == pytest.approx(0.5, abs=0.06)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert float((masks[:, a] == masks[:, b]).double().mean()) == pytest.approx(0.5, abs=0.1)


def test_a_network_that_recomputes_its_own_blocks() -> None:
    """Recomputation within recomputation, with the drawn weights."""
    batch, made = batch_of(3), []
    for recompute in (True, False):
        torch.manual_seed(5)
        swin = Swin(
            (CHANNELS + FORCING, ROWS, COLUMNS),
            (CHANNELS, ROWS, COLUMNS),
            width=4,
            depths=[2, 0, 0, 2],
            heads=[2] * 4,
            window=[1, 1],
            recompute=recompute,
        )
        made.append(Toy(losses.crps(), network=swin).run(*batch))
    assert made[0][0] == made[1][0]
    assert all(map(torch.equal, made[0][1], made[1][1]))


@pytest.mark.parametrize("name", ["crps", "nll predicted"])
def test_half_precision_adds_up_in_full(name: str) -> None:
    """2^-8 of bfloat16 an output; states and changes are summed in float32."""
    x, y = (part.float() for part in batch_of(3))
    half, _ = Toy(LOSSES[name](), precision="bf16").run(x, y)
    full, _ = Toy(LOSSES[name](), precision="float32").run(x, y)
    assert half != full
    assert half == pytest.approx(full, rel=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forty_small_steps_of_a_network_in_half_precision(dtype: torch.dtype) -> None:
    """Each is less than half of what bfloat16 resolves at the state: there none would be seen."""
    fields, steps = fields_of(forced=False), 40
    ratio = (fields.tendency_std / fields.state_std)[:, None, None]
    tendency = (0.0625 / ratio).to(torch.bfloat16)
    seen: list[Tensor] = []

    def network(x: Tensor, views: bool, lead: int) -> Tensor:
        seen.append(x)
        return tendency.expand(1, 1, CHANNELS, ROWS, COLUMNS)

    x = torch.full((1, CHANNELS + steps - 1, ROWS, COLUMNS), 100.0, dtype=dtype)
    got = Unroll(fields)(x, network, views=False, contexts=none)
    leads = torch.arange(1, steps + 1)[:, None, None, None]
    expected = (leads * tendency.double()).float().expand(steps, *tendency.shape)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[0], expected.expand_as(got[0]), rtol=1e-6, atol=0)
    state = (100 + 39 * ratio * tendency.double()).to(dtype)
    assert bool((state > 102).all())
    assert seen[-1].dtype == dtype
    torch.testing.assert_close(seen[-1][0, 0], state.expand_as(seen[-1][0, 0]), rtol=1e-6, atol=0)


def peak_bytes(steps: int) -> int:
    toy, batch = Toy(losses.gaussian_nll(), net={"width": 64}), batch_of(steps)
    with LiveMemory() as live:
        toy.step(*batch)
    return live.peak


def test_memory_is_that_of_one_step(
    keep_steps: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "LARGEST", 0)  # its weights take more than its activations
    activation = 8 * EXAMPLES * 64 * ROWS * COLUMNS  # bytes; a step keeps some of them
    few, many = peak_bytes(3), peak_bytes(8)
    assert many - few < 5 * activation / 2  # states, of 2 channels instead of 64
    keep_steps()
    kept_few, kept_many = peak_bytes(3), peak_bytes(8)
    assert kept_many - kept_few >= 5 * activation


# Input that cannot be used.


@pytest.mark.parametrize(
    ("history", "channels", "message"),
    [
        (2, 4, "4 channels: expected 5, and 1 more for"),
        (1, 2, "2 channels: expected 3, and 1 more"),
    ],
)
def test_inputs_of_too_few_channels(history: int, channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Unroll(fields_of(history=history)).steps(torch.zeros(1, channels, ROWS, COLUMNS))


def test_inputs_of_a_part_of_a_step() -> None:
    fields = replace(fields_of(), forcing=("a", "b"))
    assert Unroll(fields).steps(torch.zeros(1, CHANNELS + 6, ROWS, COLUMNS)) == 3
    with pytest.raises(ValueError, match="7 channels: expected 4, and 2 more for each step"):
        Unroll(fields).steps(torch.zeros(1, CHANNELS + 5, ROWS, COLUMNS))
