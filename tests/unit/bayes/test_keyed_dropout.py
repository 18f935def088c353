"""Dropout masks belong to (step, weight sample, example); random layers that cannot are refused."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hpc_bnn.bayes.dropout import CALL_STRIDE, KeyedDropout
from hpc_bnn.bayes.noise import Purpose, Stream, uniforms

B = 12


def keyed(step: int = 0, sample: int = 0, *, examples: int = B, first: int = 0) -> KeyedDropout:
    stream = Stream(5, Purpose.DROPOUT, step, sample)
    return KeyedDropout(stream, examples=examples, first_example=first)


def mask(*shape: int, p: float = 0.5, mode: KeyedDropout | None = None) -> Tensor:
    with mode or keyed():
        return functional.dropout(torch.ones(shape), p)


class Network(nn.Module):
    """Windows of a batch, dropped before and after they are taken apart, and whole channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.tokens = nn.Dropout(0.3), nn.Dropout(0.2)
        self.channels = nn.Dropout2d(0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.channels(self.first(x))
        batch, channels, height, width = x.shape
        windows = x.reshape(batch, channels, height, 2, width // 2).permute(0, 3, 1, 2, 4)
        windows = self.tokens(windows.reshape(batch * 2, channels, height * width // 2))
        return self.first(windows.reshape(batch, -1))


@pytest.mark.parametrize("sizes", [(6, 6), (4, 4, 4), (1,) * 12, (7, 5)])
def test_any_split_of_the_batch_gives_the_same_result(sizes: tuple[int, ...]) -> None:
    network, x = Network(), torch.ones(B, 3, 4, 6)
    with keyed(3, 2):
        whole = network(x)
    parts, first = [], 0
    for size in sizes:
        with keyed(3, 2, examples=size, first=first):
            parts.append(network(x[first : first + size]))
        first += size
    assert torch.equal(torch.cat(parts), whole)
    assert 0 < (whole == 0).float().mean() < 1


def test_the_same_pass_again_gives_the_same_masks() -> None:
    network, x = Network(), torch.ones(B, 3, 4, 6)
    with keyed(3, 2):
        once = network(x)
    torch.manual_seed(1)
    with keyed(3, 2):
        again = network(x)
    assert torch.equal(once, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [2.0**-30, 0.1, 0.25, 0.5, 1 / 3, 0.9, 1 - 2.0**-24, 1 - 2.0**-40, 1])
def test_mask_is_the_documented_one(p: float, dtype: torch.dtype) -> None:
    stream = Stream(5, Purpose.DROPOUT, 7, 3)
    shape = (2 * B, 500)
    with KeyedDropout(stream, examples=B, first_example=100):
        first, second = (functional.dropout(torch.ones(shape, dtype=dtype), p) for _ in range(2))
    for call, got in enumerate((first, second)):
        keep = uniforms(stream, shape, offset=call * CALL_STRIDE + 100 * 1000) >= p
        expected = keep.to(dtype) / (1 - p) if p < 1 else torch.zeros(shape, dtype=dtype)
        assert torch.equal(got, expected)


def test_masks_of_other_steps_samples_examples_and_calls_are_independent() -> None:
    count = 40_000
    masks = {
        "base": mask(B, count // B),
        "step": mask(B, count // B, mode=keyed(step=1)),
        "sample": mask(B, count // B, mode=keyed(sample=1)),
        "examples": mask(B, count // B, mode=keyed(first=B)),
    }
    with keyed():
        functional.dropout(torch.ones(B, 1))
        masks["call"] = functional.dropout(torch.ones(B, count // B))
    for (first, x), (second, y) in itertools.combinations(masks.items(), 2):
        # (mask - 1) has mean 0 and variance 1 at p = 1/2
        z = float(((x - 1) * (y - 1)).mean()) * math.sqrt(x.numel())
        assert abs(z) < 5, (first, second)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9])
def test_share_and_scale_of_what_is_kept(p: float) -> None:
    n = B * 10_000
    kept = mask(B, 10_000, p=p)
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    share = float((kept > 0).double().mean())
    assert abs(share - (1 - p)) < 5 * math.sqrt(p * (1 - p) / n)


def test_probabilities_zero_and_one() -> None:
    x = torch.randn(B, 4)
    with keyed():
        assert functional.dropout(x, 0.0) is x
        assert torch.equal(functional.dropout(x, 1.0), torch.zeros(B, 4))


def test_gradient_is_the_mask() -> None:
    x = torch.randn(B, 50, requires_grad=True)
    with keyed():
        functional.dropout(x, 0.4).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, mask(B, 50, p=0.4))


def test_inplace_writes_into_its_argument() -> None:
    x = torch.ones(B, 50)
    with keyed():
        out = nn.Dropout(0.4, inplace=True)(x)
    assert out is x
    assert torch.equal(x, mask(B, 50, p=0.4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtype_is_kept_and_the_mask_does_not_depend_on_it(dtype: torch.dtype) -> None:
    with keyed():
        out = functional.dropout(torch.ones(B, 50, dtype=dtype), 0.4)
    assert out.dtype == dtype
    assert torch.equal(out > 0, mask(B, 50, p=0.4) > 0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Dropout1d(0.5), (B, 30, 7)),
        (nn.Dropout2d(0.5), (B, 30, 3, 4)),
        (nn.Dropout3d(0.5), (B, 30, 2, 3, 2)),
    ],
)
def test_channelwise_dropout_drops_whole_channels(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with keyed():
        out = layer(torch.ones(shape)).flatten(2)
    assert torch.equal(out, out[:, :, :1].expand_as(out))
    assert torch.equal(out[:, :, 0], mask(B, 30))


def test_evaluation_mode_is_untouched() -> None:
    network, x = Network().eval(), torch.randn(B, 3, 4, 6)
    outside = network(x)
    attention = nn.MultiheadAttention(6, 2, dropout=0.5).eval()
    others = nn.Sequential(nn.AlphaDropout(0.5), nn.RReLU(), nn.LSTM(6, 2, 2, dropout=0.5)).eval()
    with keyed():
        assert torch.equal(network(x), outside)
        attention(x[0], x[0], x[0])
        others(x[0])


@pytest.mark.parametrize("shape", [(B + 1, 3), (B // 2, 3), ()])
def test_rows_that_do_not_enumerate_the_batch_are_refused(shape: tuple[int, ...]) -> None:
    with keyed(), pytest.raises(ValueError, match=f"the {B} examples of the batch"):
        functional.dropout(torch.ones(shape))


RECURRENT = {
    kind: getattr(nn, kind)(6, 4, num_layers=2, dropout=0.1, batch_first=True)
    for kind in ("LSTM", "GRU", "RNN")
}
X = torch.randn(B, 5, 6)

REFUSED = {
    "alpha_dropout has": lambda: nn.AlphaDropout(0.1)(X),
    "feature_alpha_dropout has": lambda: nn.FeatureAlphaDropout(0.1)(X),
    "rrelu has": lambda: nn.RReLU()(X),
    "dropout has": lambda: torch.dropout(X, 0.1, True),
    "feature_dropout has": lambda: torch.feature_dropout(X, 0.1, train=True),
    "dropout inside nn.LSTM": lambda: RECURRENT["LSTM"](X),
    "dropout inside nn.GRU": lambda: RECURRENT["GRU"](X),
    "dropout inside nn.RNN": lambda: RECURRENT["RNN"](X),
    "dropout inside nn.LSTM has": lambda: RECURRENT["LSTM"](
        nn.utils.rnn.pack_sequence([X[0], X[1]])
    ),
    "bernoulli_": lambda: X.new_empty(B, 1, 1).bernoulli_(0.9),  # the usual stochastic depth
    "bernoulli ": lambda: torch.bernoulli(torch.full((B,), 0.5)),
    "rand ": lambda: torch.rand(B),
    "randn_like ": lambda: torch.randn_like(X),
    "normal_ ": lambda: torch.empty(B).normal_(),
    "gumbel_softmax ": lambda: functional.gumbel_softmax(X),
}


@pytest.mark.parametrize("message", REFUSED)
def test_random_layers_without_a_keyed_mask_are_refused(message: str) -> None:
    with keyed(), pytest.raises(NotImplementedError, match=message):
        REFUSED[message]()


def test_deterministic_twins_of_the_refused_layers_pass() -> None:
    attention = nn.MultiheadAttention(6, 2, batch_first=True)
    recurrent = [nn.LSTM(6, 4, num_layers=2), nn.GRU(6, 4), nn.RNN(6, 4)]
    with keyed():
        functional.scaled_dot_product_attention(X, X, X)
        attention(X, X, X)
        for layer in recurrent:
            layer(X)
            layer(nn.utils.rnn.pack_sequence([X[0], X[1]]))
        torch.rand(2, generator=torch.Generator().manual_seed(1))


def test_nothing_is_replaced_after_the_pass() -> None:
    with keyed():
        pass
    torch.manual_seed(0)
    first = functional.dropout(torch.ones(B, 50))
    second = functional.dropout(torch.ones(B, 50))
    assert not torch.equal(first, second)
    torch.rand(1)
