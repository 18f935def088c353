"""The Triton kernels against the torch reference: words bit for bit, normals to 1e-6, weights and
gradients to 2e-6 of the size of their terms.

Runs on a GPU, or with TRITON_INTERPRET=1 on the CPU where Triton is installed; skipped elsewhere.
"""

import itertools
import math
import os

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes import Gaussian, LowRank, noise, noise_reference
from hpc_bnn.bayes.draw import signed_streams
from hpc_bnn.bayes.noise import DRAW, NORMALS, PULL, WORDS, Key, Purpose, Stream

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET is not set", allow_module_level=True)

import triton
import triton.language as tl

from hpc_bnn.bayes import noise_triton
from hpc_bnn.bayes.philox_triton import box_muller

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STREAMS = [
    Stream(0, Purpose.WEIGHTS),
    Stream(2**48 - 1, Purpose.OBSERVATION, 2**32 - 1, 2**32 - 1),
    Stream(5, Purpose.DROPOUT, step=7, sample=9),
]
# One element; two programs; a whole piece and block numbers beyond 32 bits.
RANGES = [(3, 1), (1023, 1026), (2**35 + 4, 1030)]
# Whole pieces and edges, the third tensor aligned to nothing.
SHAPES = [(1024,), (7,), (30, 31), (), (1026,)]


@pytest.fixture(autouse=True)
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no GPU, let the interpreter draw what is on the CPU."""
    if DEVICE.type == "cpu":
        monkeypatch.setattr(noise, "backend", lambda device: noise_triton)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(("offset", "count"), RANGES)
def test_words_and_normals_equal_reference(stream: Stream, offset: int, count: int) -> None:
    out = torch.empty(count, dtype=torch.int32, device=DEVICE)
    expected = torch.empty_like(out)
    noise_triton.fill(WORDS, out, stream, offset)
    noise_reference.words(expected, stream, offset)
    assert torch.equal(out, expected)
    for sign in (1.0, -1.0):
        values, expected = (torch.full((count,), math.nan, device=DEVICE) for _ in range(2))
        noise_triton.fill(NORMALS, values, stream, offset, sign=sign)
        noise_reference.normals(expected, stream, offset, sign)
        torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


@triton.jit
def pairs_kernel(words, out, SIZE: tl.constexpr):
    lane = tl.arange(0, SIZE)
    x, y = tl.load(words + 2 * lane), tl.load(words + 2 * lane + 1)
    first, second = box_muller(x.to(tl.uint32, bitcast=True), y.to(tl.uint32, bitcast=True))
    tl.store(out + 2 * lane, first)
    tl.store(out + 2 * lane + 1, second)


def test_extreme_words_give_the_normals_of_the_definition() -> None:
    radii = (0, 1, 2, 127, 2**24 + 1, 2**31 - 1, 2**31, *(2**32 - n for n in (130, 129, 128, 1)))
    turns = (0, 1, *(k * 2**29 + n for k in (1, 2, 3, 4, 5, 6, 7) for n in (-1, 0)), 2**32 - 1)
    words = torch.tensor([*itertools.product(radii, turns), *[(0, 0)] * 256])[:256]
    out = torch.empty((256, 2), device=DEVICE)
    pairs_kernel[(1,)](words.to(torch.int32).to(DEVICE), out, SIZE=256)
    u = ((words[:, 0].double() + 0.5) / 2**32).float().double()
    radius, angle = (-2 * u.log()).sqrt(), 2 * math.pi * words[:, 1].double() / 2**32
    expected = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    torch.testing.assert_close(out.double().cpu(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("samples", "antithetic", "offset"),
    [((2**32 - 1,), False, 0), ((5, 6), True, 0), ((0, 5), False, 13)],
)
def test_tensors_that_lie_apart_are_drawn_and_pulled_in_one_launch(
    samples: tuple[int, ...], antithetic: bool, offset: int
) -> None:
    key = Key(3, 8, samples)
    mus = [randn(*shape, seed=1) for shape in SHAPES]
    log_sigmas = [randn(*shape, seed=2) - 1 for shape in SHAPES]
    log_sigmas[-1] = randn(2003, seed=2)[977:]  # in the middle of other memory
    mu, log_sigma = (torch.cat([part.flatten() for part in parts]) for parts in (mus, log_sigmas))
    shape = len(samples), mu.numel()
    eps = torch.empty(shape, device=DEVICE)
    for row, (stream, sign) in zip(eps, signed_streams(key, antithetic=antithetic), strict=True):
        noise_reference.normals(row, stream, offset, sign)
    shift = log_sigma.exp() * eps

    for means in (mus, mu + torch.arange(len(samples), device=DEVICE)[:, None]):
        out, kept = (torch.full((shape[0], shape[1] + 3), math.nan, device=DEVICE) for _ in "ab")
        drawn = out[:, :-3], kept[:, :-3]
        noise_triton.draw(
            drawn[0], means, log_sigmas, key, offset, antithetic=antithetic, keep=drawn[1]
        )
        expected = shift + (means if isinstance(means, Tensor) else mu)
        for got, wanted in zip(drawn, (expected, shift), strict=True):
            torch.testing.assert_close(got, wanted, atol=2e-6, rtol=2e-6)
        assert torch.isnan(torch.stack([out, kept])[..., -3:]).all()

    grad, total = randn(*shape, seed=4), torch.full_like(mu, math.nan)
    noise_triton.pull(total, grad, log_sigmas, key, offset, antithetic=antithetic)
    terms = grad * shift
    assert torch.all((total - terms.sum(0)).abs() <= 2e-6 * terms.abs().sum(0) + 1e-12)


def test_one_row_is_drawn_and_pulled_with_the_sign_of_its_stream() -> None:
    """As ``noise.fill`` has it, for compiled networks and half precision."""
    mu, log_sigma, grad = (randn(1026, seed=seed) for seed in range(3))
    for stream, sign in itertools.product(STREAMS, (1.0, -1.0)):
        got, expected, kept, shift = (torch.empty_like(mu) for _ in range(4))
        how = {"sign": sign, "log_sigma": log_sigma}
        for kernel, out, keep in ((noise_triton, got, kept), (noise_reference, expected, shift)):
            kernel.fill(DRAW, out, stream, 3, mu=mu, keep=keep, **how)
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(kept, shift, atol=1e-6, rtol=2e-6)
        for kernel, out in ((noise_triton, got), (noise_reference, expected)):
            kernel.fill(PULL, out, stream, 3, grad=grad, **how)
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=2e-6)


def test_step_and_sample_are_added_to_what_lies_on_the_device() -> None:
    """Read at each launch, so that a replay is one of other numbers."""
    mu, log_sigma, grad = (randn(2, 1030, seed=seed) for seed in range(3))
    shift = torch.zeros(2, dtype=torch.int64, device=DEVICE)

    def everything(stream: Stream, key: Key) -> list[Tensor]:
        words = torch.empty(1030, dtype=torch.int32, device=DEVICE)
        eps, pulled = (torch.empty(1030, device=DEVICE) for _ in range(2))
        rows = torch.empty_like(mu)
        noise_triton.fill(WORDS, words, stream, 3)
        noise_triton.fill(NORMALS, eps, stream, 3, sign=-1.0)
        one = [torch.empty_like(eps) for _ in range(2)]
        noise_triton.fill(DRAW, one[0], stream, 3, mu=mu[0], log_sigma=log_sigma[0])
        noise_triton.fill(PULL, one[1], stream, 3, grad=grad[0], log_sigma=log_sigma[0])
        noise_triton.draw(rows, mu, [log_sigma[0]], key, 3, antithetic=True)
        noise_triton.pull(pulled, grad, [log_sigma[0]], key, 3, antithetic=True)
        return [words, eps, *one, rows, pulled]

    moved = Stream(7, Purpose.WEIGHTS, 1, 2, shift), Key(7, 1, (2, 3), shift=shift)
    for step, sample in ((0, 0), (5, 3), (2**32 - 2, 2**32 - 4)):
        shift.copy_(torch.tensor([step, sample]))
        plain = [(1 + step, n + sample) for n in (2, 3)]
        stream = Stream(7, Purpose.WEIGHTS, *plain[0])
        expected = everything(stream, Key(7, 1 + step, tuple(s for _, s in plain)))
        assert all(map(torch.equal, everything(*moved), expected))


@pytest.mark.parametrize("posterior_class", [Gaussian, LowRank])
def test_a_posterior_draws_and_weighs_all_tensors_as_the_cpu_does(
    posterior_class: type[Gaussian], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of draw and complexity term, each tensor with a tau of its own."""

    def everything(device: torch.device) -> list[Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(20, 53), nn.Linear(53, 30), nn.Linear(30, 3))
        posterior = posterior_class(
            network, prior_sigma="fan_in", initial_sigma=0.1, temperature=0.3, seed=5
        ).to(device)
        weights = posterior.sample(Key(5, 2, (1, 2)))
        names = [name for name, _ in posterior.named_parameters()]
        drawn = sum(
            (w * torch.cos(torch.arange(w.numel()).to(w).view_as(w))).sum()
            for w in weights.values()
        )
        values = [*weights.values(), posterior.complexity()]
        for root in (drawn, posterior.complexity() / 100):
            values += torch.autograd.grad(root, list(posterior.parameters()), allow_unused=True)
        assert len(names) * 2 + len(weights) + 1 == len(values)
        return [value.detach().cpu() for value in values if value is not None]

    got = everything(DEVICE)
    monkeypatch.undo()
    for value, expected in zip(got, everything(torch.device("cpu")), strict=True):
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-5)
