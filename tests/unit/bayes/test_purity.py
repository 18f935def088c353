"""The check that a network is a pure function of its weights and its input, each fault by name."""

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hpc_bnn.bayes.gaussian import Gaussian
from hpc_bnn.bayes.impure import ImpureError
from hpc_bnn.bayes.inputs import Inputs

B = 6


class Own(nn.Module):
    """Two linear layers with whatever a test puts between and around them."""

    def __init__(self, between: Callable[["Own", Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.between = between
        self.register_buffer("mean", torch.zeros(8))
        self.scale = nn.Parameter(torch.ones(8), requires_grad=False)
        self.calls = 0
        self.kept: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls, self.x = self.calls + 1, x.detach()
        result: Tensor = self.last(self.between(self, self.first(x)))
        return result


def check(network: nn.Module, x: Inputs | None = None, *, samples: int = 1) -> list[str]:
    names = [name for name, _ in network.named_parameters() if name != "scale"]
    posterior = Gaussian(network, initial_sigma=0.3, random=names)
    x = torch.randn(B, 4) if x is None else x
    return posterior.check(posterior.key(0, range(samples)), x, gradients=True)


def running_mean(own: Own, h: Tensor) -> Tensor:
    own.mean.mul_(0.9).add_(0.1 * h.detach().mean(0))
    return h - own.mean


def new_buffer(own: Own, h: Tensor) -> Tensor:
    own.mean = own.mean + 1.0
    return h


def clamped(own: Own, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda g: g.clamp(-0.01, 0.01))
    return h * 1.0


def changed_bias(own: Own, h: Tensor) -> Tensor:
    own.scale.data.mul_(0.9)
    return h * own.scale


def jitter(draw: Callable[[], float]) -> Callable[[Own, Tensor], Tensor]:
    return lambda own, h: h + draw()


def remembered(own: Own, h: Tensor) -> Tensor:
    own.kept.append(h.detach())
    return h + own.kept[0].mean()


def remembered_batch(own: Own, h: Tensor) -> Tensor:
    own.kept.append(float(own.x.mean()))
    return h + own.kept[0]


IMPURE: dict[str, tuple[Callable[[Own, Tensor], Tensor], str]] = {
    "running mean": (running_mean, "buffer mean of Own changes in the forward pass"),
    "new buffer": (new_buffer, "buffer mean of Own changes in the forward pass"),
    "torch": (
        jitter(lambda: float(torch.rand(()))),
        "the network (Own) takes numbers from torch's",
    ),
    "python": (jitter(random.random), "the network (Own) takes numbers from Python's random"),
    "numpy": (jitter(np.random.rand), "takes numbers from numpy.random"),
    "counter": (lambda own, h: h * own.calls, "with what an earlier call left behind"),
    "cache": (remembered, "with what an earlier call left behind"),
    "cache of inputs": (remembered_batch, "with what an earlier call left behind"),
    "batch mean": (lambda own, h: h - h.mean(0), "depends on the others of its batch"),
    "first example": (lambda own, h: h - h[:1], "depends on the others of its batch"),
    "last example": (lambda own, h: h - h[-1:], "depends on the others of its batch"),
    "largest": (lambda own, h: h / h.abs().max(), "depends on the others of its batch"),
    "warm-up": (
        lambda own, h: h * (0.5 + own.calls / 1e5),
        "it remembers earlier calls (a counter, a running mean)",
    ),
    "clamped way back": (clamped, "a hook that clamps gradients of activations"),
    "parameter": (changed_bias, "parameter scale changes in the forward pass"),
    "place": (lambda own, h: h + torch.arange(len(h))[:, None], "depends on the others"),
}


@pytest.mark.parametrize("case", IMPURE)
def test_what_is_not_pure_is_refused_by_name(case: str) -> None:
    between, message = IMPURE[case]
    with pytest.raises(ImpureError, match=re.escape(message)):
        check(Own(between))


@pytest.mark.parametrize("case", IMPURE)
def test_it_is_refused_with_several_samples_a_pass_too(case: str) -> None:
    with pytest.raises(ValueError, match=r"check=False|samples_per_pass"):  # some by torch.vmap
        check(Own(IMPURE[case][0]), samples=2)


def numpy_state() -> Any:
    return np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002


def test_generators_and_buffers_are_put_back() -> None:
    torch.manual_seed(1)
    network = Own(running_mean)
    before = torch.get_rng_state(), random.getstate(), numpy_state()
    with pytest.raises(ImpureError):
        check(network, torch.ones(B, 4))
    with pytest.raises(ImpureError):
        check(Own(jitter(random.random)), torch.ones(B, 4))
    assert torch.equal(network.mean, torch.zeros(8))
    assert random.getstate() == before[1]
    assert numpy_state() == before[2]


def test_the_innermost_random_layer_is_named() -> None:
    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + float(np.random.rand())  # noqa: NPY002

    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Tanh(), Noise()))
    with pytest.raises(ImpureError, match=re.escape("1.1 (Noise) takes numbers from numpy.random")):
        check(network)


class Aliased(nn.Module):
    """A layer that reads a weight which is not registered as its own."""

    def __init__(self, *, hide: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)
        if hide == "list":
            self.hidden = [self.first.weight]
        else:
            self.hidden = [self.first]  # the whole layer, out of torch's sight
            self.first = nn.Linear(4, 4)
            self.first.weight = self.hidden[0].weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden[0]
        weight = hidden.weight if isinstance(hidden, nn.Linear) else hidden
        result: Tensor = self.last(torch.tanh(self.first(x)) @ weight.T)
        return result


@pytest.mark.parametrize("hide", ["list", "layer"])
def test_a_weight_that_is_kept_elsewhere_is_refused(hide: str) -> None:
    with pytest.raises(ImpureError, match="not registered as its own"):
        check(Aliased(hide=hide))


def test_a_layer_of_its_own_kind_that_cuts_the_way_back_is_refused() -> None:
    class Late(torch.autograd.Function):
        """Reads the weight of its layer when backward runs."""

        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, layer: nn.Linear) -> Tensor:
            ctx.layer = layer
            return x @ weight.T

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            return grad @ (ctx.layer.weight.detach() * 2), None, None

    network = Own(lambda own, h: h)
    assert check(network) == []

    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
            self.calls: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.calls.append(self.b(self.a(x)).sum())
            h = self.a(x)
            # The first call of all trains the layer, later ones are cut off.
            return self.b(h if len(self.calls) == 1 and self.a.weight.is_leaf else h.detach())

    with pytest.raises(ImpureError, match=r"the gradient of a\.weight is missing"):
        check(Wrong())


@pytest.mark.parametrize("samples", [1, 2])
def test_ordinary_networks_pass(samples: int) -> None:
    inputs: dict[str, tuple[nn.Module, Inputs]] = {
        "linear": (nn.Linear(4, 3), torch.randn(B, 4)),
        "one example": (nn.Linear(4, 3), torch.randn(1, 4)),
        "convolution": (nn.Conv2d(2, 3, 3), torch.randn(B, 2, 5, 5)),
        "sparse gradients": (
            nn.Sequential(nn.Embedding(9, 4, sparse=samples == 1), nn.Flatten(), nn.Linear(8, 3)),
            torch.arange(2 * B).view(B, 2) % 9,
        ),
        "tokens": (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3)), torch.randn(B, 5, 4)),
    }
    for network, x in inputs.values():
        assert check(network, x, samples=samples) == []


def test_networks_in_half_precision_and_float64_pass() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)
        assert check(network, torch.randn(B, 4, dtype=dtype)) == []


def test_weights_that_reach_no_output_are_named() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.used(x)
            return result

    assert check(Spare()) == ["spare.weight", "spare.bias"]


def test_a_network_that_cannot_be_copied_is_told(caplog: pytest.LogCaptureFixture) -> None:
    network = nn.Linear(4, 3)
    network.handle = (value for value in ())  # type: ignore[assignment]
    assert check(network) == []
    assert "cannot be copied" in caplog.text and "not checked" in caplog.text


def test_prediction_of_a_new_module_is_checked_once() -> None:
    x = torch.randn(B, 4)
    network = Own(jitter(random.random))
    with pytest.raises(ImpureError, match="Python's random"):
        Gaussian(network).predict(x, samples=2)
    Gaussian(network).predict(x, samples=2, check=False)
    counted = Own(lambda own, h: h)
    posterior = Gaussian(counted)
    for _ in range(2):
        posterior.predict(x, samples=3)
    assert counted.calls == 3 + 2 * 3, "the check runs once"


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_with_several_samples_a_pass_are_refused(reentrant: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(self.b, torch.tanh(self.a(x)), use_reentrant=reentrant)
            return result

    with pytest.raises(
        ValueError,
        match=r"cannot run several weight samples in one pass.*set samples_per_pass to 1",
    ):
        check(Net(), samples=2)


def test_a_single_example_shows_a_mean_over_the_batch_too() -> None:
    with pytest.raises(ImpureError, match="depends on the others of its batch"):
        check(Own(lambda own, h: h - h.mean(0)), torch.randn(1, 4))


def test_a_network_that_a_function_holds_is_compared_with_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    plain = network.forward
    network.forward = lambda x: 2.0 * plain(x)  # type: ignore[method-assign]
    weights = {name: p.detach().clone() for name, p in network.named_parameters()}
    assert check(network) == []
    assert "holds the network itself" in caplog.text
    assert all(torch.equal(p, weights[name]) for name, p in network.named_parameters())


def test_a_table_made_by_the_first_call_is_no_change() -> None:
    def table(own: Own, h: Tensor) -> Tensor:
        if not hasattr(own, "angles"):
            own.register_buffer("angles", torch.arange(8.0))
        return h * own.angles

    assert check(Own(table)) == []


def test_an_input_whose_container_is_changed_stays() -> None:
    class Doubles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            x["x"] = x["x"] * 2
            result: Tensor = self.a(x["x"])
            return result

    posterior, x = Gaussian(Doubles()), {"x": torch.ones(B, 4)}
    first, second = (posterior.predict(x, samples=1) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(x["x"], torch.ones(B, 4))


def test_a_layer_that_was_replaced_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    posterior = Gaussian(network)
    network[1] = nn.Linear(8, 3)
    with pytest.raises(ValueError, match=r"the layer of 1\.weight was replaced"):
        posterior.predict(torch.randn(B, 4), samples=1)
