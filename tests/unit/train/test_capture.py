"""Captured passes give the run of passes that are not, with a recorder of operators on CPUs that
repeats what a CUDA graph repeats: nothing that Python does.
"""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS, field_source
from tape import Tape, noise_on_tape
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from toy_step import INPUTS, LOSSES, NUM_EXAMPLES, OUTPUTS, alone, batch

from hpc_bnn import bayes, losses
from hpc_bnn.bayes.noise import Key
from hpc_bnn.bayes.posterior import Posterior, Weights
from hpc_bnn.data.augment import CropFlip
from hpc_bnn.losses.base import JointLoss, Loss, SeparableLoss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.train.run.optimizers import OPTIMIZERS
from hpc_bnn.train.step.recorder import Watch, Work, reason_of
from hpc_bnn.train.step.step import Step
from hpc_bnn.train.step.unroll import Unroll

STEPS, SAMPLES = 5, 4
Make = Callable[[], Step]
Batches = Callable[[int], tuple[Any, Tensor]]


@pytest.fixture
def tape(monkeypatch: pytest.MonkeyPatch) -> Tape:
    made = Tape()
    noise_on_tape(made, monkeypatch)
    return made


def captured(make: Make, tape: Tape) -> Step:
    step = make()
    step._capture.recorder = tape
    return step


def run(step: Step, batches: Batches, steps: int = STEPS, first: int = 0) -> list[float]:
    losses = [float(step(*batches(k))) for k in range(first, first + steps)]
    parameters = step.optimizer.param_groups[0]["params"]
    return [*losses, *torch.cat([p.detach().double().flatten() for p in parameters]).tolist()]


def assert_same(make: Make, tape: Tape, batches: Batches, *, rel: float = 1e-11) -> Step:
    step = captured(make, tape)
    got, expected = run(step, batches), run(make(), batches)
    assert tape.captures and tape.replays, "no step was captured"
    assert got == pytest.approx(expected, rel=rel, abs=rel)
    return step


def network_of(
    loss: Loss, *, dropout: float = 0.0, dtype: torch.dtype = torch.float64
) -> nn.Module:
    torch.manual_seed(11)
    shape = loss.output_shape((OUTPUTS,))
    network = MLP((INPUTS,), shape, hidden=[5, 4], activation="tanh", dropout=dropout)
    return network.to(dtype)


def step_of(loss: Loss, posterior: Posterior, *, optimizer: str = "adam", **options: Any) -> Step:
    own = posterior.optimizer(0.01)
    made = OPTIMIZERS[optimizer](posterior, loss, lr=0.01) if own is None else own
    given = {"samples": SAMPLES, "num_examples": NUM_EXAMPLES, "precision": "float64", **options}
    return Step(posterior, loss, made, alone(), **given)


def gaussian(
    loss: str = "gaussian", posterior: dict[str, Any] | None = None, **options: Any
) -> Step:
    made = LOSSES[loss]().double()
    given = {"initial_sigma": 0.1, **(posterior or {})}
    return step_of(made, bayes.Gaussian(network_of(made), **given), **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str, tape: Tape) -> None:
    joint = isinstance(LOSSES[loss](), JointLoss)
    assert_same(lambda: gaussian(loss), tape, lambda k: batch(loss, k))
    assert tape.captures == (2 if joint else 1)
    steps = STEPS - 1  # from the second one on, and the pass of two samples is proven
    assert tape.replays == (SAMPLES * steps + 2) * (2 if joint else 1)


POSTERIORS: dict[str, Callable[[nn.Module], Posterior]] = {
    "dropout": lambda network: bayes.Dropout(network),
    "dropout of samples": lambda network: bayes.Dropout(network, masks="sample"),
    "ensemble": lambda network: bayes.Ensemble(network, samples=SAMPLES),
    "ensemble anchored": lambda network: bayes.Ensemble(network, samples=SAMPLES, anchored=True),
    "gaussian": lambda network: bayes.Gaussian(network),
    "gaussian keep_noise": lambda network: bayes.Gaussian(network, keep_noise=True),
    "gaussian with dropout": lambda network: bayes.Gaussian(network),
    "low_rank": lambda network: bayes.LowRank(network, rank=2),
    "rank1": lambda network: bayes.Rank1(network),
    "sghmc": lambda network: bayes.SGHMC(network, samples=SAMPLES, burn_in=1),
    "sgld": lambda network: bayes.SGLD(network, samples=SAMPLES),
    "swag": lambda network: bayes.SWAG(network, samples=SAMPLES, start=1, collect_every=1),
}
HAVE_ROWS = ("ensemble", "ensemble anchored", "sghmc", "sgld", "swag")


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("loss", ["gaussian", "almost fair crps"])
def test_every_posterior(name: str, loss: str, tape: Tape) -> None:
    def make() -> Step:
        made = LOSSES[loss]().double()
        network = network_of(made, dropout=0.3 if "dropout" in name else 0.0)
        return step_of(made, POSTERIORS[name](network))

    assert_same(make, tape, lambda k: batch("gaussian", k))
    graphs = SAMPLES if name in HAVE_ROWS else 1
    assert tape.captures == graphs * (1 if loss == "gaussian" else 2)


def test_the_tables_hold_every_posterior() -> None:
    named = {name.split()[0] for name in POSTERIORS}
    assert named == set(bayes.POSTERIORS) - {"last_layer_laplace"}  # fitted, not trained


OPTIONS: dict[str, dict[str, Any]] = {
    "clipped": {"clip_norm": 0.1},
    "averaged": {"ema": 0.9},
    "warming up": {"kl_warmup_steps": 3},
    "ivon": {"optimizer": "ivon"},
    "two a pass": {"samples_per_pass": 2},
    "three a pass, then one": {"samples_per_pass": 3},
    "all in one pass": {"samples_per_pass": 4},
    "own samples only": {"exact": False},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("loss", ["gaussian learned", "moments learned"])
def test_options(name: str, loss: str, tape: Tape) -> None:
    assert_same(lambda: gaussian(loss, **OPTIONS[name]), tape, lambda k: batch(loss, k))
    graphs = 2 if "then one" in name else 1
    assert tape.captures == graphs * (1 if loss == "gaussian learned" else 2)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("keep_noise", [False, True])
def test_weights_that_kernels_read_where_they_lie(
    antithetic: bool, keep_noise: bool, tape: Tape
) -> None:
    """float32, as on GPUs: which half of a pair a sample is, the kernel finds itself."""

    def make() -> Step:
        made = losses.gaussian_nll(sigma=0.7)
        network = network_of(made, dtype=torch.float32)
        options: dict[str, Any] = {"antithetic": antithetic, "keep_noise": keep_noise}
        posterior = bayes.Gaussian(network, initial_sigma=0.1, **options)
        return step_of(made, posterior, precision="float32")

    assert_same(make, tape, lambda k: batch("gaussian", k), rel=2e-6)


def test_half_precision(tape: Tape) -> None:
    """Whose copies of the weights torch keeps during a pass, not for the next one."""

    def make() -> Step:
        made = losses.gaussian_nll(sigma=0.7)
        network = network_of(made, dtype=torch.float32)
        return step_of(made, bayes.Gaussian(network, initial_sigma=0.1), precision="bf16")

    assert_same(make, tape, lambda k: batch("gaussian", k), rel=1e-4)


@pytest.mark.parametrize("views", ["per_sample", "shared"])
def test_augmented_views(views: str, tape: Tape) -> None:
    x, y = torch.randn(3, 2, 4, 4).double(), torch.tensor([0, 2, 1])

    def make() -> Step:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)).double()
        made = losses.categorical_nll()
        return step_of(made, bayes.Gaussian(network), augment=CropFlip(1), views=views)

    assert_same(make, tape, lambda k: (x + k, y))


@pytest.mark.parametrize("loss", [losses.gaussian_nll, losses.fair_crps])
def test_rollouts(loss: Callable[..., Loss], tape: Tape) -> None:
    """Of three steps, of which backward runs two again, from the third batch on."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).double()

    x = draw(2, CHANNELS + FORCING * 3, ROWS, COLUMNS)
    y = draw(2, 3, CHANNELS, ROWS, COLUMNS)

    def make() -> Step:
        fields = field_source().fields
        assert fields is not None
        torch.manual_seed(0)
        network = nn.Conv2d(CHANNELS + FORCING, CHANNELS, 3, padding=1).double()
        made = loss().double()
        return step_of(made, bayes.Gaussian(network), unroll=Unroll(fields))

    def batches(k: int) -> tuple[Tensor, Tensor]:
        return (x, y) if k > 1 else (x[:, : CHANNELS + FORCING], y[:, 0])

    assert_same(make, tape, batches)
    assert tape.captures == (4 if isinstance(loss(), JointLoss) else 2)


def test_inputs_of_several_tensors(tape: Tape) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(INPUTS, OUTPUTS)

        def forward(self, x: dict[str, Any]) -> Tensor:
            result: Tensor = self.layer(x["a"]) + self.layer(x["b"][0])
            return result

    def make() -> Step:
        torch.manual_seed(0)
        made = losses.gaussian_nll(sigma=0.7).double()
        return step_of(made, bayes.Gaussian(Sum().double()))

    def batches(k: int) -> tuple[Any, Tensor]:
        x, y = batch("gaussian", k)
        return {"a": x, "b": (x + 1, "name")}, y

    assert_same(make, tape, batches)


def test_targets_of_each_member(tape: Tape) -> None:
    """Which are chosen by the number of a sample: each has its own graph."""

    def make() -> Step:
        nll = losses.gaussian_nll(sigma=0.7)
        assert isinstance(nll, SeparableLoss)
        made = losses.member_targets(nll).double()
        return step_of(made, bayes.Gaussian(network_of(losses.gaussian_nll())))

    def batches(k: int) -> tuple[Tensor, Tensor]:
        x, y = batch("gaussian", k)
        return x, y[:, None] + torch.arange(SAMPLES)[:, None]

    assert_same(make, tape, batches)
    assert tape.captures == SAMPLES


def test_batches_of_another_shape_run_without(tape: Tape, caplog: pytest.LogCaptureFixture) -> None:
    """A short last one; one that comes again is captured, and those before it still serve."""
    sizes = [6, 6, 6, 4, 6, 4, 4, 4, 6]

    def batches(k: int) -> tuple[Tensor, Tensor]:
        return batch("gaussian", k, examples=sizes[k])

    step = captured(gaussian, tape)
    counts = []
    with caplog.at_level(logging.INFO):
        got = []
        for k in range(len(sizes)):
            got.append(float(step(*batches(k))))
            counts.append(tape.captures)
    assert got == pytest.approx(run(gaussian(), batches, len(sizes))[: len(sizes)], rel=1e-12)
    assert counts == [0, 1, 1, 1, 1, 1, 2, 2, 2]
    (line,) = [record.message for record in caplog.records]
    assert line.startswith(
        "train.capture: step 3 runs without a graph: its batch has another shape"
    )


def test_what_changes_is_captured_anew(tape: Tape) -> None:
    """Frozen layers, and attributes that a schedule sets."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.first, self.second = 1.0, nn.Linear(INPUTS, 4), nn.Linear(4, OUTPUTS)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.scale * self.first(x).tanh())
            return result

    def make() -> Step:
        torch.manual_seed(0)
        made = losses.gaussian_nll(sigma=0.7).double()
        return step_of(made, bayes.Gaussian(Scaled().double()))

    def changing(step: Step) -> list[float]:
        losses = run(step, lambda k: batch("gaussian", k), 3)
        network = step.posterior.module
        assert isinstance(network, Scaled)
        network.scale = 0.5
        losses += run(step, lambda k: batch("gaussian", k), 3, first=3)
        network.first.requires_grad_(False)
        return losses + run(step, lambda k: batch("gaussian", k), 3, first=6)

    got, expected = changing(captured(make, tape)), changing(make())
    assert got == pytest.approx(expected, rel=1e-11, abs=1e-11)
    assert tape.captures == 3


def test_what_a_method_does_between_steps_changes_nothing(tape: Tape) -> None:
    """It predicts, warns, averages, collects states."""

    def of_chains() -> Step:
        made = losses.gaussian_nll(sigma=0.7).double()
        options: dict[str, Any] = {"burn_in": 1, "collect_every": 1, "snapshots": 2}
        posterior = bayes.SGHMC(network_of(made), samples=SAMPLES, **options)
        return step_of(made, posterior, check=False)

    def of_gaussian() -> Step:
        return gaussian(check=False, ema=0.9)

    for make, graphs in ((of_chains, SAMPLES), (of_gaussian, 1)):
        step, plain = captured(make, tape), make()
        for k in range(6):
            x, y = batch("gaussian", k)
            assert float(step(x, y)) == pytest.approx(float(plain(x, y)), rel=1e-11)
            for each in (step, plain):
                with each.averaged():
                    each.posterior.predict(x.double(), samples=2)
        assert tape.captures == graphs
        tape.captures = 0


def test_a_run_goes_on_where_it_was(tape: Tape) -> None:
    """Also what was captured is resumed without, and the other way round."""

    def batches(k: int) -> tuple[Tensor, Tensor]:
        return batch("gaussian", k)

    expected = run(gaussian(), batches, 8)
    for first, second in ((True, False), (False, True), (True, True)):
        step = captured(gaussian, tape) if first else gaussian()
        run(step, batches, 4)
        resumed = captured(gaussian, tape) if second else gaussian()
        resumed.posterior.load_state_dict(step.posterior.state_dict())
        resumed.optimizer.load_state_dict(step.optimizer.state_dict())
        resumed.step = step.step
        got = run(resumed, batches, 4, first=4)
        assert got == pytest.approx(expected[4:], rel=1e-11, abs=1e-11)


class Unkeyed(bayes.Gaussian):
    """A method of another program, that makes its noise of the step as it knows it."""

    def sample(self, key: Key) -> Weights:
        return super().sample(self.key(key.step, key.samples))


def asking(x: Tensor) -> Tensor:
    return x * 2 if float(x.sum()) > 1e9 else x


class Asking(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(asking(x))


def refused(reason: str) -> tuple[Make, Batches]:
    """Return a step that cannot be captured, and its batches."""
    nll = losses.gaussian_nll(sigma=0.7).double()
    torch.manual_seed(0)
    if reason == "other numbers":
        return lambda: step_of(nll, Unkeyed(network_of(nll))), lambda k: batch("gaussian", k)
    if reason == "waits for the device":
        layer = Asking(INPUTS, OUTPUTS).double()
        return lambda: step_of(nll, bayes.Gaussian(layer)), lambda k: batch("gaussian", k)
    if reason == "is sparse":
        layers = nn.Sequential(nn.Embedding(5, OUTPUTS, sparse=True), nn.Linear(OUTPUTS, OUTPUTS))
        posterior = bayes.Gaussian(layers.double(), random=["1.*"])
        return (
            lambda: step_of(nll, posterior, optimizer="sgd", check=False),
            lambda k: (torch.tensor([k % 5, 1]), torch.zeros(2, OUTPUTS).double()),
        )
    assert reason == "keep_graphs"
    return lambda: gaussian("crps", keep_graphs=True), lambda k: batch("crps", k)


REASONS = ["other numbers", "waits for the device", "is sparse", "keep_graphs"]


@pytest.mark.parametrize("reason", REASONS)
def test_what_cannot_be_captured_runs_without_and_says_why(
    reason: str, tape: Tape, caplog: pytest.LogCaptureFixture
) -> None:
    make, batches = refused(reason)
    start = make().posterior.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    step = captured(make, tape)
    got = run(step, batches)
    lines = [record.message for record in caplog.records]
    assert [line.partition(": passes run without graphs: ")[0] for line in lines] == [
        "train.capture"
    ]
    assert reason in lines[0]
    step = make()
    step.posterior.load_state_dict(start)
    assert got == run(step, batches)  # bit for bit
    assert step._capture.recorder is None


@pytest.mark.parametrize("reason", REASONS)
def test_asked_for_it_is_an_error(reason: str, tape: Tape) -> None:
    make, batches = refused(reason)
    step = captured(make, tape)
    step._capture.mode = "on"
    with pytest.raises(ValueError, match=rf"train\.capture = on: .*{reason}.*set it to auto"):
        run(step, batches)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("Cannot call CUDAGeneratorImpl::current_seed during CUDA graph capture."),
            "activation checkpointing of dropout",
        ),
        (
            RuntimeError("CUDA error: operation not permitted when stream is capturing\n..."),
            "waits for the device, or copies to or from the host",
        ),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "does not fit"),
        (NotImplementedError("no such kernel"), "NotImplementedError: no such kernel"),
    ],
)
def test_what_a_gpu_says_is_put_into_words(
    error: Exception, reason: str, tape: Tape, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(work: Work) -> Work:
        raise error

    tape.capture = refuse  # type: ignore[method-assign]
    got = run(captured(gaussian, tape), lambda k: batch("gaussian", k))
    assert got == run(gaussian(), lambda k: batch("gaussian", k))
    assert len(caplog.records) == 1 and reason in caplog.text


def test_what_waits_is_found_before_it_is_captured() -> None:
    x = torch.ones(3)
    with Watch(torch.device("cpu")):
        x * 2 + torch.tensor(1.0), x[:2].sum(), torch.empty(3, device="meta").exp()
    for wait in (x.sum().item, x.nonzero, lambda: x[x > 0], lambda: x.to("meta")):
        with Watch(torch.device("cpu")), pytest.raises(RuntimeError, match="not permitted"):
            wait()
    with Watch(torch.device("cuda")):  # what lies on the host may be asked for
        assert x.sum().item() == 3


def test_the_first_error_of_a_capture_is_told() -> None:
    try:
        try:
            raise RuntimeError("Cannot call CUDAGeneratorImpl::current_seed during capture")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    except RuntimeError as error:
        assert "dropout" in reason_of(error)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "dropout"])
def test_blocks_that_backward_runs_again(name: str, reentrant: bool, tape: Tape) -> None:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(INPUTS, 4)
            self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.3))
            self.last = nn.Linear(4, OUTPUTS)

        def forward(self, x: Tensor) -> Tensor:
            tokens = checkpoint(self.block, self.first(x), use_reentrant=reentrant)
            result: Tensor = self.last(tokens)
            return result

    def make() -> Step:
        torch.manual_seed(0)
        made = losses.gaussian_nll(sigma=0.7).double()
        return step_of(made, POSTERIORS[name](Recomputed().double()))

    assert_same(make, tape, lambda k: batch("gaussian", k))


def test_on_cpus_auto_is_off_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        step = gaussian(capture="auto")
        run(step, lambda k: batch("gaussian", k))
    assert step._capture.recorder is None and not caplog.records
    with pytest.raises(ValueError, match=r"capture = on: .*GPUs only.* cpu; set it to auto or off"):
        gaussian(capture="on")
    with pytest.raises(ValueError, match=r"capture = 'yes': expected one of auto, on, off"):
        gaussian(capture="yes")


def test_numbers_that_are_not_finite_are_the_error_of_the_step(tape: Tape) -> None:
    step = captured(gaussian, tape)
    x, y = batch("gaussian", 0)
    step(x, y)
    with pytest.raises(ValueError, match=r"x of example 2 .* not finite"):
        step(x.index_fill(0, torch.tensor([2]), torch.nan), y)
    assert step._capture.recorder is tape  # the next batch may be better
