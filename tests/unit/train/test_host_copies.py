"""A pass copies nothing between the host and the device: else it could not be captured, and on a
GPU each copy takes longer than a kernel of a small network.

Passes run on tensors without numbers, of the device ``meta``, beside which whatever lies on the CPU
is the host. The first pass may put what it needs where it computes; the second may not.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from field_source import CHANNELS, COLUMNS, FORCING, ROWS, field_source
from test_capture import POSTERIORS
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import TorchDispatchMode
from toy_step import INPUTS, LOSSES, OUTPUTS

from hpc_bnn import bayes, losses
from hpc_bnn.bayes.posterior import Posterior
from hpc_bnn.group import ALONE
from hpc_bnn.losses.base import Loss
from hpc_bnn.models import MODELS
from hpc_bnn.models.mlp import MLP
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.world import World
from hpc_bnn.train.step.accumulate import Share, accumulate
from hpc_bnn.train.step.passes import Passes
from hpc_bnn.train.step.phases import Phases
from hpc_bnn.train.step.settings import StepSettings
from hpc_bnn.train.step.unroll import Unroll

META = torch.device("meta")
MAKING = (torch.tensor, torch.as_tensor, Tensor.new_tensor)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


def devices(value: object) -> set[str]:
    """Return where tensors lie, but for single numbers."""
    tensors = (leaf for leaf in tree.tree_leaves(value) if isinstance(leaf, Tensor))
    return {tensor.device.type for tensor in tensors if tensor.dim()}


class _Operators(TorchDispatchMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if devices((args, kwargs, result)) == {"cpu", "meta"}:
            self._counts[func.overloadpacket.__name__] += 1
        return result


class _Functions(TorchFunctionMode):
    """What makes tensors of Python's numbers, which no operator shows."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        indices = args[1] if func in INDEXING else ()
        listed = any(
            isinstance(i, list) for i in (indices if isinstance(indices, tuple) else [indices])
        )
        if listed or (func in MAKING and "meta" in devices(result)):
            self._counts[func.__name__] += 1
        return result


def copies(
    posterior: Posterior, loss: Loss, x: Tensor, y: Tensor, **options: Any
) -> dict[str, int]:
    """Return the copies of the second step."""
    posterior.initialise()
    posterior.to(META), loss.to(META)
    posterior.writes_to_input = False
    loss.examples_apart = True  # found out in the first step
    settings = StepSettings(samples=4, num_examples=10, **options)
    passes = Passes(posterior, World(Grid(1, 1, 0), META), settings, Phases(torch.device("cpu")))
    passes.looks_for_dropout = False
    counts: Counter[str] = Counter()
    x, y = settings.place(x, y, META)
    for _ in range(2):
        counts.clear()
        with warnings.catch_warnings(), _Operators(counts), _Functions(counts):
            warnings.simplefilter("ignore")  # the noise is that of the reference
            accumulate(loss, passes, ALONE, Share(x, y, 0, 1.0, posterior.complexity))
    return dict(counts)


def network_of(loss: Loss, *, dropout: float = 0.0) -> nn.Module:
    return MLP((INPUTS,), loss.output_shape((OUTPUTS,)), hidden=[5, 4], dropout=dropout)


def batch(loss: str = "gaussian") -> tuple[Tensor, Tensor]:
    y = (
        torch.zeros(6, dtype=torch.int64)
        if loss.startswith("categorical")
        else torch.ones(6, OUTPUTS)
    )
    return torch.ones(6, INPUTS), y


def test_the_count_sees_every_kind_of_copy() -> None:
    counts: Counter[str] = Counter()
    x = torch.empty((3, 3), device=META)
    with _Operators(counts), _Functions(counts):
        x.new_tensor([1.0, 2.0]), torch.tensor([1.0], device=META), x[:, [0, 2]]
        torch.ones(3).to(META)
        x * torch.tensor(2.0), x.new_zeros(3), x[:, 1], x[x.long()]
    assert counts == {"new_tensor": 1, "tensor": 1, "__getitem__": 1, "_to_copy": 1}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss(loss: str) -> None:
    made = LOSSES[loss]()
    assert copies(bayes.Gaussian(network_of(made)), made, *batch(loss)) == {}


@pytest.mark.parametrize("name", POSTERIORS)
def test_every_posterior(name: str) -> None:
    made = losses.gaussian_nll()
    posterior = POSTERIORS[name](network_of(made, dropout=0.3 if "dropout" in name else 0.0))
    assert copies(posterior, made, *batch()) == {}


SHAPES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "mlp": ((INPUTS,), (OUTPUTS,), {}),
    "swin": ((2, 16, 32), (2, 16, 32), {"width": 8, "depths": [2, 2, 2, 2]}),
    "vit": ((3, 8, 8), (3, 4, 4), {"patch": 4, "width": 8, "depth": 1, "heads": 2}),
}


SERIES = (48, 2), (24, 2), dict[str, Any]()  # rows and channels of the past, and of the forecast


@pytest.mark.parametrize(
    ("name", "more"), [*((name, {}) for name in MODELS), ("swin", {"recompute": True})]
)
def test_every_model(name: str, more: dict[str, Any]) -> None:
    inputs, outputs, options = SHAPES.get(name, SERIES)
    network = MODELS[name](inputs, outputs, **options, **more)
    x, y = torch.ones(2, *inputs), torch.ones(2, *outputs)
    assert copies(bayes.Gaussian(network), losses.gaussian_nll(), x, y) == {}


@pytest.mark.parametrize("loss", [losses.gaussian_nll, losses.fair_crps])
@pytest.mark.parametrize("masked", [False, True])
def test_rollouts(loss: Callable[..., Loss], masked: bool) -> None:
    present = torch.rand(CHANNELS, ROWS, COLUMNS).gt(0.3) if masked else None
    fields = field_source(present=present).fields
    assert fields is not None
    network = nn.Conv2d(CHANNELS + FORCING, CHANNELS, 3, padding=1)
    x, y = (
        torch.ones(2, CHANNELS + FORCING * 3, ROWS, COLUMNS),
        torch.ones(2, 3, CHANNELS, ROWS, COLUMNS),
    )
    made = loss(present=present)
    assert copies(bayes.Gaussian(network), made, x, y, unroll=Unroll(fields)) == {}
