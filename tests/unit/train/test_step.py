"""The training step on one process: gradients against direct computation, and what it refuses."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from toy_step import BATCH, LOSSES, NUM_EXAMPLES, Toy, alone, batch, posterior_of

from hpc_bnn import losses
from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms
from hpc_bnn.data.augment import Jitter
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import SeparableLoss
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.settings import StepSettings
from hpc_bnn.train.step.step import Step


def direct(toy: Toy, samples: int, x: Tensor, y: Tensor, *, kl_weight: float = 1.0) -> Tensor:
    """Compute the objective at step 0 with plain autograd: every sample's weights written out."""
    posterior, outputs = toy.posterior, []
    for sample in range(samples):
        drawn = posterior.sample(posterior.key(0, [sample]))
        weights = {name: weight[0] for name, weight in drawn.items()}
        outputs.append(functional_call(posterior.module, weights, (x,)))
    if isinstance(toy.loss, SeparableLoss):
        data = torch.stack([toy.loss(output, y).mean() for output in outputs]).mean()
    else:
        data = toy.loss(torch.stack(outputs), y, ALONE).mean()
    kl = torch.zeros((), dtype=x.dtype)
    for name in posterior.names:
        mu = posterior.module.get_parameter(name)
        sigma = posterior.log_sigma[name.replace(".", "/")].exp()
        prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
        kl = kl + kl_divergence(Normal(mu, sigma), prior).sum()
    return data + kl_weight / NUM_EXAMPLES * kl


def doubled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.double(), y.double() if y.is_floating_point() else y


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_and_gradient_against_direct_computation(loss: str) -> None:
    toy = Toy(loss, samples=6, kl_weight=0.7)
    objective = direct(toy, 6, *doubled(*batch(loss)), kl_weight=0.7)
    expected = torch.autograd.grad(objective, toy.parameters)
    (value,) = toy.run(1)
    assert value == pytest.approx(objective.item(), rel=1e-12)
    for p, gradient in zip(toy.parameters, expected, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_samples_per_pass_does_not_change_the_answer(loss: str) -> None:
    """One a pass (joint losses: recomputed), two, an uneven three, and all (kept graph)."""
    reference = Toy(loss, samples=4, samples_per_pass=4)
    values, gradients = reference.run(3), [p.grad for p in reference.parameters]
    for per_pass in (1, 2, 3, 99):
        toy = Toy(loss, samples=4, samples_per_pass=per_pass)
        assert toy.run(3) == pytest.approx(values, rel=1e-12)
        for p, gradient in zip(toy.parameters, gradients, strict=True):
            assert p.grad is not None
            assert gradient is not None
            assert torch.allclose(p.grad, gradient, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("loss", ["gaussian", "categorical predictive", "almost fair crps"])
@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
def test_two_runs_are_equal_bit_for_bit(loss: str, precision: str) -> None:
    first, second = (Toy(loss, precision=precision, dropout=0.2) for _ in range(2))
    values = first.run(4)
    torch.rand(100)  # the state of torch's generator is not part of a run
    assert second.run(4) == values
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))


def test_the_seed_matters() -> None:
    assert Toy(posterior={"seed": 5}).run(2) != Toy(posterior={"seed": 4}).run(2)


def test_every_step_draws_anew() -> None:
    toy = Toy(lr=1e-30, kl_weight=0.0)
    x, y = batch()
    assert float(toy.step(x, y)) != float(toy.step(x, y))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_lower_precision_stays_near_float64(precision: str) -> None:
    """bf16 keeps 8 bits: 0.4 % a rounding; float32 24 bits."""
    exact, toy = Toy(), Toy(precision=precision)
    tolerance = {"float32": 1e-5, "bf16": 3e-2}[precision]
    values = toy.run(3)
    assert values == pytest.approx(exact.run(3), rel=tolerance)
    assert values != exact.run(3)
    for p, q in zip(toy.parameters, exact.parameters, strict=True):
        assert p.dtype == torch.float32
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        assert q.dtype == torch.float64


def test_the_network_computes_in_bf16_and_the_loss_does_not() -> None:
    seen: list[torch.dtype] = []

    class Watched(losses.SeparableLoss):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            seen.append(output.dtype)
            return (output.float() - target).square().sum(1)

    toy = Toy(Watched(), precision="bf16")
    toy.run(1)
    assert set(seen) == {torch.bfloat16}
    assert toy.step.report is not None
    assert math.isfinite(toy.step.report.loss)


def test_clipping_limits_the_step_and_reports_the_norm_before() -> None:
    free, clipped = Toy(lr=1.0), Toy(lr=1.0, clip_norm=0.01)
    norm = math.sqrt(sum(float(g.square().sum()) for g in free.gradients()))
    before = clipped.snapshot()
    clipped.run(1)
    assert norm > 0.1
    assert clipped.step.report is not None
    assert clipped.step.report.gradient_norm == pytest.approx(norm, rel=1e-9)
    moved = [a - b for a, b in zip(before, clipped.snapshot(), strict=True)]
    length = math.sqrt(sum(float(d.square().sum()) for d in moved))
    assert length == pytest.approx(0.01, rel=1e-4)


def test_the_report_adds_up() -> None:
    toy = Toy(kl_weight=0.5, kl_warmup_steps=4)
    for step in range(6):
        value = float(toy.step(*batch("gaussian", step)))
        report = toy.step.report
        assert report is not None
        factor = 0.5 / NUM_EXAMPLES * min(1.0, (step + 1) / 4)
        assert report.step == step
        assert value == report.loss
        assert report.loss == pytest.approx(report.data_loss + factor * report.kl, rel=1e-12)
        assert 0 <= report.phases_s["communication"] <= report.step_time_s
        assert sum(report.phases_s.values()) == pytest.approx(report.step_time_s, rel=1e-12)
        assert min(report.phases_s[name] for name in ("draw", "forward", "backward")) > 0
    assert toy.step.step == 6


def test_the_step_count_can_be_set_for_a_resume() -> None:
    straight, resumed = Toy(), Toy()
    straight.run(2)
    with torch.no_grad():
        for p, q in zip(resumed.parameters, straight.parameters, strict=True):
            p.copy_(q)
    resumed.step.step = 2
    for k in (2, 3):
        assert float(resumed.step(*batch("gaussian", k))) == float(
            straight.step(*batch("gaussian", k))
        )


def unchanged(toy: Toy, before: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, toy.snapshot(), strict=True))


def test_a_loss_that_is_not_finite_names_step_and_parameter_and_changes_nothing() -> None:
    toy = Toy()
    toy.run(2)
    before = toy.snapshot()
    x, y = batch("gaussian", 2)
    y = y.double()
    y[0, 0] = 1e308
    with pytest.raises(FloatingPointError, match=r"step 2: loss = inf") as caught:
        toy.step(x, y)
    assert "first parameter with a non-finite gradient: module.layers.0.weight" in str(caught.value)
    assert "Lower train.lr" in str(caught.value)
    assert unchanged(toy, before)
    assert toy.step.step == 2
    assert math.isfinite(float(toy.step(*batch("gaussian", 2))))


def test_an_infinite_loss_with_finite_gradients_is_refused() -> None:
    class Endless(losses.SeparableLoss):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return output.sum(1) + math.inf

    toy = Toy(Endless())
    before = toy.snapshot()
    with pytest.raises(FloatingPointError, match=r"loss = inf.*all gradients are finite"):
        toy.run(1)
    assert unchanged(toy, before)


def test_a_finite_loss_with_a_nan_gradient_is_refused() -> None:
    """The square root at zero: its value is fine, its slope times zero is not."""

    class Root(losses.SeparableLoss):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return (output * 0).abs().sum(1).sqrt()

    toy = Toy(Root())
    before = toy.snapshot()
    with pytest.raises(
        FloatingPointError, match=r"first parameter with a non-finite gradient: mod"
    ):
        toy.run(1)
    assert unchanged(toy, before)


@pytest.mark.parametrize("views", ["per_sample", "per_rank", "shared"])
def test_views_of_the_batch(views: str) -> None:
    """Each weight sample sees the view that its own stream gives it, or all see the first one."""
    sigma = 0.5
    toy = Toy(samples=3, augment=Jitter(sigma), views=views, kl_weight=0.0)
    x, y = doubled(*batch())
    values = []
    for sample in range(3):
        stream = Stream(4, Purpose.AUGMENTATION, 0, sample if views == "per_sample" else 0)
        view = Jitter(sigma)(x, uniforms(stream, (BATCH, 3)))
        drawn = toy.posterior.sample(toy.posterior.key(0, [sample]))
        weights = {name: weight[0] for name, weight in drawn.items()}
        values.append(toy.loss(functional_call(toy.posterior.module, weights, (view,)), y).mean())
    (found,) = toy.run(1)
    assert found == pytest.approx(torch.stack(values).mean().item(), rel=1e-12)


@pytest.mark.parametrize("loss", ["gaussian", "crps"])
@pytest.mark.parametrize("views", ["per_sample", "per_rank", "shared"])
def test_views_do_not_depend_on_samples_per_pass(loss: str, views: str) -> None:
    options = {"samples": 4, "augment": Jitter(0.3), "views": views}
    one, all_at_once = Toy(loss, **options), Toy(loss, samples_per_pass=4, **options)
    assert one.run(3) == pytest.approx(all_at_once.run(3), rel=1e-12)


def passes_of(posterior: Gaussian, grid: Grid, **options: Any) -> Passes:
    settings = StepSettings(
        samples=6, num_examples=10, precision="float64", **{"views": "shared", **options}
    )
    cpu = torch.device("cpu")
    return Passes(posterior, World(grid, cpu), settings, Phases(cpu))


class Functional(nn.Module):
    """A linear layer after a dropout that is no layer of its own, from ``first_call`` on."""

    def __init__(self, drop: Callable[[Tensor], Tensor], first_call: int) -> None:
        super().__init__()
        self.linear, self.drop, self.first_call, self.calls = nn.Linear(3, 2), drop, first_call, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return cast(Tensor, self.linear(self.drop(x) if self.calls > self.first_call else x))


def outputs_of(network: nn.Module) -> list[Tensor]:
    torch.manual_seed(2)
    nn.init.normal_(cast(nn.Parameter, network.get_parameter("linear.weight")))
    nn.init.zeros_(cast(nn.Parameter, network.get_parameter("linear.bias")))
    passes = passes_of(Gaussian(network, seed=4), Grid(1, 1, 0))
    draw = passes.draw(batch()[0], 5, passes.parts)
    return [passes.run(batch()[0], draw, part).outputs for part in passes.parts]


@pytest.mark.parametrize("first_call", [0, 2])
def test_dropout_that_is_no_layer_is_keyed_from_its_first_call_on(first_call: int) -> None:
    layer = nn.Dropout(0.4)
    layered, drawn = (outputs_of(Functional(layer, 0)), outputs_of(Functional(nn.Identity(), 0)))
    functional = Functional(lambda x: nn.functional.dropout(x, 0.4), first_call)
    outputs = outputs_of(functional)
    for i, output in enumerate(outputs):
        assert torch.equal(output, (layered if i >= first_call else drawn)[i])
    assert functional.calls == len(outputs) + 1, "the first pass that drops runs again"


@pytest.mark.parametrize("first_call", [0, 2])
def test_numbers_of_the_generator_of_torch_are_refused_at_their_first_pass(
    first_call: int,
) -> None:
    with pytest.raises(NotImplementedError, match="rand_like takes its numbers from torch's own"):
        outputs_of(Functional(lambda x: x + torch.rand_like(x), first_call))


def made(
    loss: str = "gaussian", *, parameters: list[Tensor] | None = None, **options: object
) -> Step:
    kind = LOSSES[loss]()
    posterior = posterior_of(kind, dropout=float(options.pop("dropout", 0.0)))  # type: ignore[arg-type]
    posterior.antithetic = bool(options.pop("antithetic", False))
    everything = [*posterior.parameters(), *kind.parameters()]
    chosen = everything if parameters is None else parameters
    optimizer = torch.optim.SGD(chosen, lr=0.1)
    return Step(
        posterior,
        kind,
        optimizer,
        options.pop("world", alone()),  # type: ignore[arg-type]
        **{"samples": 4, "num_examples": 10, **options},  # type: ignore[arg-type]
    )


def test_an_optimizer_that_holds_too_little_or_too_much() -> None:
    kind = LOSSES["gaussian learned"]()
    posterior = posterior_of(kind)
    common = {"samples": 4, "num_examples": 10}
    means = torch.optim.SGD(posterior.module.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"does not hold log_sigma\.layers/0/bias \(5 of 9"):
        Step(posterior, kind, means, alone(), **common)
    without_loss = torch.optim.SGD(posterior.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"does not hold loss\.likelihood\.log_sigma \(1 of 9"):
        Step(posterior, kind, without_loss, alone(), **common)
    stray = nn.Parameter(torch.zeros(1))
    more = torch.optim.SGD([*posterior.parameters(), *kind.parameters(), stray], lr=0.1)
    with pytest.raises(ValueError, match=r"holds 1 parameters that belong to neither"):
        Step(posterior, kind, more, alone(), **common)


def test_frozen_parameters_need_no_optimizer() -> None:
    kind = LOSSES["gaussian"]()
    posterior = posterior_of(kind)
    posterior.module.layers[0].weight.requires_grad_(False)
    trained = [p for p in posterior.parameters() if p.requires_grad]
    step = Step(
        posterior,
        kind,
        torch.optim.SGD(trained, lr=0.1),
        alone(),
        samples=2,
        num_examples=10,
        precision="float64",
    )
    before = posterior.module.layers[0].weight.clone()
    step(*batch())
    assert torch.equal(posterior.module.layers[0].weight, before)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"samples": 0}, r"posterior\.samples = 0: must be a positive multiple of the 1"),
        (
            {"samples": 4, "world": World(Grid(3, 1, 0), torch.device("cpu"))},
            r"posterior\.samples = 4: must be a positive multiple of the 3 sample ranks",
        ),
        ({"samples": 3, "antithetic": True}, r"posterior\.samples = 3: antithetic pairs need"),
        ({"samples_per_pass": 0}, r"posterior\.samples_per_pass = 0: must be at least 1"),
        ({"dropout": 0.5, "samples_per_pass": 2}, r"posterior\.samples_per_pass: .*dropout"),
        ({"num_examples": 0}, r"num_examples = 0: must be the size of the training set"),
        ({"loss": "fair crps", "samples": 1}, r"posterior\.samples = 1: CRPS needs at least 2"),
        ({"loss": "moments", "samples": 1}, r"posterior\.samples = 1: GaussianMoments needs at"),
        (
            {
                "loss": "fair crps",
                "samples": 2,
                "exact": False,
                "world": World(Grid(2, 1, 0), torch.device("cpu")),
            },
            r"at least 2 weight samples on each rank",
        ),
    ],
)
def test_refused(options: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"views": "per_smaple"}, r"views = 'per_smaple': expected one of per_sample, per_rank, "),
        ({"precision": "fp16"}, r"precision = 'fp16': expected one of float32, bf16, float64"),
        ({"reduction": "local"}, r"reduction = 'local': expected one of world, two_stage"),
        ({"compression": "zip"}, r"compression = 'zip': expected one of none, fp16"),
        ({"clip_norm": -1.0}, r"clip_norm = -1.0: must be positive; None: no clipping"),
        ({"clip_norm": 0}, r"clip_norm = 0: must be positive"),
        ({"kl_weight": math.nan}, r"kl_weight = nan: must be 0 or a positive number"),
        ({"guard_every": -1}, r"guard_every = -1: must be 0"),
    ],
)
def test_settings_that_no_step_knows_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        StepSettings(samples=2, num_examples=4, **options)


def test_settings_are_one_record_or_keywords() -> None:
    toy = Toy()
    parts = (toy.posterior, toy.loss, toy.optimizer, alone())
    with pytest.raises(TypeError, match=r"keyword num_exmples; did you mean num_examples\?"):
        Step(*parts, samples=2, num_exmples=4)
    with pytest.raises(TypeError, match=r"not both \(samples\)"):
        Step(*parts, StepSettings(samples=2, num_examples=4), samples=8)
    with pytest.raises(
        TypeError, match=r"settings is of type int; give samples=\.\.\. as a keyword"
    ):
        Step(*parts, 8, num_examples=4)  # type: ignore[arg-type]


def test_what_is_allowed_beside_what_is_refused() -> None:
    made(samples=4, antithetic=True)
    made(dropout=0.5, samples_per_pass=1)
    made(dropout=0.5, samples=1, samples_per_pass=8)
    made("crps", samples=1)


@pytest.mark.parametrize("loss", ["crps", "moments", "categorical predictive"])
def test_a_local_joint_loss_is_the_exact_one_on_one_rank(loss: str) -> None:
    assert Toy(loss, exact=False).run(2) == pytest.approx(Toy(loss).run(2), rel=1e-13)


def test_antithetic_pairs_mirror_the_draws() -> None:
    toy = Toy(samples=2, posterior={"antithetic": True})
    draws = toy.posterior.sample(toy.posterior.key(0, [0, 1]))
    for name, weight in draws.items():
        mu = toy.posterior.module.get_parameter(name)
        assert torch.allclose(weight[0] - mu, mu - weight[1], rtol=1e-9, atol=1e-14)
    assert all(math.isfinite(value) for value in toy.run(2))


def test_kept_noise_gives_the_same_run() -> None:
    kept = Toy(posterior={"keep_noise": True}).run(3)
    assert kept == pytest.approx(Toy().run(3), rel=1e-12)


def test_shapes_that_do_not_fit_are_refused() -> None:
    toy = Toy()
    x, y = batch()
    with pytest.raises(ValueError, match=r"gaussian_nll: the network gives .* must be equal"):
        toy.step(x, y[:, :1])
