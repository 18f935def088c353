"""The host asks the device once a step: whatever the loss, the posterior and the options.

On a GPU a question makes the host wait until the device has caught up, and the device then waits
for the host. Counted is what would be one there: an operation that gives Python a number or a shape
that depends on numbers, wherever it is called from, and a copy to the host. Tensors that lie on the
host on every machine do not count: the states of generators, and messages between ranks.
"""

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS, field_source
from thread_group import ThreadGroup, on_ranks
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from toy_step import INPUTS, LOSSES, NUM_EXAMPLES, OUTPUTS, alone, batch

from hpc_bnn import bayes, losses
from hpc_bnn.bayes.counter import Counter as HostCounter
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.data.augment import CropFlip, Shift
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import Loss
from hpc_bnn.models.mlp import MLP
from hpc_bnn.models.swin import Swin
from hpc_bnn.models.vit import ViT
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.optimizers import OPTIMIZERS
from hpc_bnn.train.step.step import Step
from hpc_bnn.train.step.unroll import Unroll

ASKING = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "nonzero_static", "masked_select",
    "_unique2", "unique_dim", "unique_consecutive", "bincount",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index"}
COPYING = ("tolist", "numpy", "cpu")  # on CPUs none of them reaches the dispatcher
_asked = threading.local()


def on_host(tensor: Tensor) -> bool:
    """Tell whether a tensor is the state of a generator."""
    return tensor.dtype == torch.uint8


class Questions(TorchDispatchMode):
    """Counts the questions of a thread by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masked = name in INDEXING and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        repeated = name == "repeat_interleave" and func._overloadname == "Tensor"
        if (name in ASKING and not on_host(args[0])) or masked or repeated:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(autouse=True)
def copies_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(name: str) -> Callable[..., Any]:
        copy = getattr(Tensor, name)

        def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            caller = sys._getframe(1).f_globals.get("__name__", "")
            counts = getattr(_asked, "counts", None)
            message = caller.startswith("hpc_bnn.parallel.")
            if counts is not None and not (message or on_host(tensor)):
                counts[name] += 1
            return copy(tensor, *args, **kwargs)

        return counted

    for name in COPYING:
        monkeypatch.setattr(Tensor, name, seen(name))


@contextmanager
def counting() -> Iterator[Counter[str]]:
    with Questions() as questions:
        _asked.counts = questions.counts
        try:
            yield questions.counts
        finally:
            _asked.counts = None


def asked(step: Step, batches: Callable[[int], tuple[Any, Tensor]], *, at: int = 2) -> Counter[str]:
    """Return the questions of a step after the first ones, which check and allocate."""
    for k in range(at):
        step(*batches(k))
    with counting() as counts:
        step(*batches(at))
    return counts


def assert_one(counts: Counter[str]) -> None:
    assert counts.total() <= 1, dict(counts)


def network_of(loss: Loss, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(11)
    shape = loss.output_shape((OUTPUTS,))
    return MLP((INPUTS,), shape, hidden=[5, 4], activation="tanh", dropout=dropout)


def step_of(
    loss: Loss,
    posterior: Posterior,
    *,
    optimizer: str = "adam",
    world: World | None = None,
    samples: int = 4,
    **options: Any,
) -> Step:
    own = posterior.optimizer(0.01)
    made = OPTIMIZERS[optimizer](posterior, loss, lr=0.01) if own is None else own
    given = {"samples": samples, "num_examples": NUM_EXAMPLES, **options}
    return Step(posterior, loss, made, world or alone(), **given)


def test_the_count_sees_every_kind_of_question() -> None:
    x = torch.arange(4.0)
    with counting() as counts:
        float(x.sum()), bool(x.any()), x.tolist(), x.numpy(), x.cpu(), x[x > 1], x.nonzero()
        torch.get_rng_state().numpy()
    expected = {"_local_scalar_dense": 2, "tolist": 1, "numpy": 1, "cpu": 1, "index": 1}
    assert counts == {**expected, "nonzero": 1}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str) -> None:
    made = LOSSES[loss]()
    step = step_of(made, bayes.Gaussian(network_of(made)), clip_norm=0.1)
    assert_one(asked(step, lambda k: batch(loss, k)))


POSTERIORS: dict[str, Callable[[nn.Module], Posterior]] = {
    "dropout": lambda network: bayes.Dropout(network),
    "ensemble": lambda network: bayes.Ensemble(network, samples=4),
    "ensemble anchored": lambda network: bayes.Ensemble(network, samples=4, anchored=True),
    "gaussian antithetic": lambda network: bayes.Gaussian(network, antithetic=True),
    "gaussian keep_noise": lambda network: bayes.Gaussian(network, keep_noise=True),
    "low_rank": lambda network: bayes.LowRank(network),
    "rank1": lambda network: bayes.Rank1(network),
    "sghmc": lambda network: bayes.SGHMC(network, samples=4, burn_in=1, preconditioning=True),
    "sgld": lambda network: bayes.SGLD(network, samples=4),
    "swag": lambda network: bayes.SWAG(network, samples=4, start=1, collect_every=1),
}


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("loss", ["gaussian", "almost fair crps"])
def test_every_posterior(name: str, loss: str) -> None:
    made = LOSSES[loss]()
    posterior = POSTERIORS[name](network_of(made, dropout=0.2 if name == "dropout" else 0.0))
    step = step_of(made, posterior, clip_norm=None if posterior.optimizer(0.01) else 0.1)
    assert_one(asked(step, lambda k: batch("gaussian", k)))


def test_the_tables_hold_every_posterior_and_loss() -> None:
    named = {name.split()[0] for name in POSTERIORS}
    assert named == set(bayes.POSTERIORS) - {"last_layer_laplace"}  # fitted, not trained
    made = [type(loss()) for loss in LOSSES.values()]
    assert {type(loss()) for loss in losses.LOSSES.values()} <= set(made)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("ivon", {"kl_warmup_steps": 5}),
        ("adamw", {"samples_per_pass": 2}),
        ("sgd", {"ema": 0.9}),
        ("adam", {"precision": "bf16"}),
        ("adam", {"keep_graphs": True, "exact": False}),
    ],
)
@pytest.mark.parametrize("loss", ["categorical", "moments"])
def test_optimizers_and_options(optimizer: str, options: dict[str, Any], loss: str) -> None:
    made = LOSSES[loss]()
    step = step_of(made, bayes.Gaussian(network_of(made)), optimizer=optimizer, **options)
    assert_one(asked(step, lambda k: batch(loss, k)))


@pytest.mark.parametrize("augment", [Shift(1), CropFlip(1)])
def test_augmentation_and_dropout(augment: Any) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Dropout(0.3), nn.Flatten(), nn.Linear(12, 3))
    made = losses.categorical_nll()
    step = step_of(made, bayes.Gaussian(network), augment=augment, views="per_sample")
    x, y = torch.randn(3, 2, 4, 4), torch.tensor([0, 2, 1])
    assert_one(asked(step, lambda k: (x, y)))


@pytest.mark.parametrize("kind", ["swin", "vit"])
def test_models(kind: str) -> None:
    made = losses.gaussian_nll() if kind == "swin" else losses.categorical_nll()
    x, y = torch.randn(2, 2, 16, 32), torch.randn(2, 2, 16, 32)
    network: nn.Module = Swin((2, 16, 32), (2, 16, 32), width=8, depths=(2, 2, 2, 2))
    if kind == "vit":
        x, y = torch.randn(2, 3, 8, 8), torch.tensor([0, 2])
        network = ViT((3, 8, 8), (3,), patch=4, width=8, depth=2, heads=2)
    step = step_of(made, bayes.Gaussian(network), samples=2, check=False)
    assert_one(asked(step, lambda k: (x, y), at=1))


@pytest.mark.parametrize("loss", [losses.gaussian_nll, losses.fair_crps])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_every_unroll(loss: Callable[..., Loss], steps: int, masked: bool) -> None:
    present = torch.rand(CHANNELS, ROWS, COLUMNS).gt(0.3) if masked else None
    fields = field_source(present=present).fields
    assert fields is not None
    unroll = Unroll(fields)
    network = nn.Conv2d(CHANNELS + FORCING, CHANNELS, 3, padding=1)
    made = loss(present=present)
    step = step_of(made, bayes.Gaussian(network), unroll=unroll, keep_graphs=False)
    x = torch.randn(2, CHANNELS + FORCING * steps, ROWS, COLUMNS)
    y = torch.randn(2, steps, CHANNELS, ROWS, COLUMNS)
    assert_one(asked(step, lambda k: (x, y if steps > 1 else y[:, 0])))


@pytest.mark.parametrize("name", ["gaussian keep_noise", "ensemble"])
@pytest.mark.parametrize(("sample_ranks", "data_ranks"), [(2, 1), (1, 2)])
def test_several_ranks(name: str, sample_ranks: int, data_ranks: int) -> None:
    """Their gradients stay their own: what reduces them is an engine's."""
    cpu, losses_of = torch.device("cpu"), [losses.almost_fair_crps() for _ in range(2)]
    posteriors = [POSTERIORS[name](network_of(loss)) for loss in losses_of]

    def work(group: ThreadGroup) -> Counter[str]:
        grid, rank = Grid(sample_ranks, data_ranks, group.rank), group.rank
        axes = (group if size == 2 else ALONE for size in (sample_ranks, data_ranks))
        world = World(grid, cpu, group, *axes)
        options = {"clip_norm": 0.1, "check": False}  # that uses the generator of all threads
        step = step_of(losses_of[rank], posteriors[rank], world=world, **options)
        return asked(step, lambda k: batch("gaussian", 2 * k + grid.data_rank))

    for counts in on_ranks(2, work):
        assert_one(counts)


def test_a_count_is_asked_for_again_where_something_else_wrote_it() -> None:
    counter, count = HostCounter(), torch.tensor(3)
    assert counter.read(count) == 3
    counter.write(count, 4)
    with counting() as counts:
        assert (counter.read(count), counter.read(count)) == (4, 4)
    assert not counts
    count.copy_(torch.tensor(7))
    assert counter.read(count) == 7
    assert counter.read(torch.tensor(9)) == 9
