"""Normals of the keyed noise, and draw and pull made of them: kernel against reference, statistics.

A bound of five standard errors fails by chance once in 1.7 million; the streams are fixed, so never
from run to run.
"""

import hashlib
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hpc_bnn.bayes import noise, noise_cpu, noise_reference
from hpc_bnn.bayes.noise import Purpose, Stream

ALL = 0xFFFFFFFF
LEVELS = range(noise_cpu.LEVEL + 1)
OFFSETS = (0, 1, 2, 3, 255, 257, 2**34 - 3, 2**34 + 1, 2**50 + 2)
COUNTS = (0, 1, 2, 3, 255, 256, 257, 1000)
LARGEST = math.sqrt(2 * 33 * math.log(2))  # radius of the smallest u, 2**-33


def kernel(task: int, stream: Stream, offset: int, count: int, **inputs: object) -> Tensor:
    out = torch.full((count,), math.nan)
    noise_cpu.fill(task, out, stream, offset, **inputs)
    return out


def reference(stream: Stream, offset: int, count: int, sign: float = 1.0) -> Tensor:
    out = torch.full((count,), math.nan)
    noise_reference.normals(out, stream, offset, sign)
    return out


def close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_kernel_equals_reference(level: int, sign: float) -> None:
    stream = Stream(2**47 + 999, Purpose.WEIGHTS, step=2**31 + 5, sample=2**32 - 2)
    for offset, count in itertools.product(OFFSETS, COUNTS):
        got = kernel(noise.NORMALS, stream, offset, count, sign=sign, level=level)
        assert close(got, reference(stream, offset, count, sign), 1e-6), (offset, count)


def test_kernel_equals_reference_on_a_million_normals() -> None:
    stream = Stream(1, Purpose.WEIGHTS)
    assert close(noise.normals(stream, (2**20,)), reference(stream, 0, 2**20), 1e-6)


# Published CPU runs depend on these bits: a change of a polynomial or a compiler that fuses a
# multiply-add is a new release of the noise, not a detail.
FIRST_4096 = "543c271777032ac1369f036ffc378879d4a953ceb6738c133d7919e717d839cf"


@pytest.mark.parametrize("level", LEVELS)
def test_bits_of_the_kernel_never_change(level: int) -> None:
    values = kernel(noise.NORMALS, Stream(0, Purpose.WEIGHTS), 0, 4096, level=level)
    assert hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest() == FIRST_4096


@pytest.mark.parametrize("offset", [0, 1, 2**34 + 3])
def test_results_are_bit_identical_for_every_level_and_number_of_threads(offset: int) -> None:
    stream, count = Stream(7, Purpose.WEIGHTS, 3, 1), 4 * 2**15 + 77
    mu, log_sigma, grad = (
        noise.normals(Stream(1, Purpose.WEIGHTS, 9, s), (count,)) for s in range(3)
    )

    def everything(level: int, threads: int) -> list[Tensor]:
        how = {"level": level, "threads": threads, "sign": -1.0}
        keep = torch.empty(count)
        drawn = kernel(
            *(noise.DRAW, stream, offset, count), mu=mu, log_sigma=log_sigma, keep=keep, **how
        )
        pulled = kernel(noise.PULL, stream, offset, count, grad=grad, log_sigma=log_sigma, **how)
        return [kernel(noise.NORMALS, stream, offset, count, **how), drawn, keep, pulled]

    expected = everything(0, 1)
    for level, threads in itertools.product(LEVELS, (1, 2, 3, 4)):
        for got, value in zip(everything(level, threads), expected, strict=True):
            assert torch.equal(got, value), (level, threads)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_draw_and_pull_equal_reference(level: int, sign: float) -> None:
    """To 1e-6 of the size of the terms: |mu| + sigma, and |grad| sigma."""
    stream = Stream(5, Purpose.WEIGHTS, 2, 3)
    for offset, count in itertools.product((0, 3, 2**34 + 1), (0, 1, 3, 255, 256, 257, 5000)):
        mu, grad = (
            noise.normals(Stream(6, Purpose.WEIGHTS, 0, s), (count,)).mul_(3) for s in (0, 1)
        )
        log_sigma = noise.uniforms(Stream(6, Purpose.ORDER), (count,)) * 90 - 80  # up to e^10
        sigma = log_sigma.exp()
        kept, kept_expected, expected = (torch.empty(count) for _ in range(3))
        terms = {"sign": sign, "log_sigma": log_sigma}
        noise_reference.fill(
            *(noise.DRAW, expected, stream, offset), mu=mu, keep=kept_expected, **terms
        )
        inputs = {"level": level, **terms}
        got = kernel(noise.DRAW, stream, offset, count, mu=mu, keep=kept, **inputs)
        assert torch.all((got - expected).abs() <= 1e-6 * (mu.abs() + sigma))
        assert torch.all((kept - kept_expected).abs() <= 1e-6 * sigma)
        noise_reference.fill(noise.PULL, expected, stream, offset, grad=grad, **terms)
        got = kernel(noise.PULL, stream, offset, count, grad=grad, **inputs)
        assert torch.all((got - expected).abs() <= 1e-6 * grad.abs() * sigma)


def test_draw_without_keep_is_the_draw_with_keep() -> None:
    stream, count = Stream(5, Purpose.WEIGHTS), 700
    mu, log_sigma, keep = torch.ones(count), torch.full((count,), -1.0), torch.empty(count)
    kept = kernel(noise.DRAW, stream, 1, count, mu=mu, log_sigma=log_sigma, keep=keep)
    bare = kernel(noise.DRAW, stream, 1, count, mu=mu, log_sigma=log_sigma)
    assert torch.equal(kept, bare)
    assert torch.equal(mu + keep, kept)


def test_sigma_of_zero_draws_the_mean_and_nan_stays_visible() -> None:
    stream, mu = Stream(5, Purpose.WEIGHTS), torch.linspace(-1, 1, 300)
    for value in (-200.0, -math.inf):
        log_sigma = torch.full((300,), value)
        drawn = kernel(noise.DRAW, stream, 0, 300, mu=mu, log_sigma=log_sigma)
        assert torch.allclose(drawn, mu, rtol=0, atol=1e-36)
    log_sigma[17] = math.nan
    drawn = kernel(noise.DRAW, stream, 0, 300, mu=mu, log_sigma=log_sigma)
    assert drawn.isnan().nonzero().tolist() == [[17]]


@settings(max_examples=60, deadline=None)
@given(
    start=st.one_of(st.integers(0, 2000), st.integers(2**34 - 600, 2**34 + 600)),
    lengths=st.lists(st.integers(0, 600), min_size=1, max_size=6),
)
def test_any_split_of_a_range_gives_the_same_normals(start: int, lengths: list[int]) -> None:
    stream = Stream(11, Purpose.WEIGHTS, 1, 4)
    whole = noise.normals(stream, (sum(lengths),), offset=start)
    begins = itertools.accumulate(lengths[:-1], initial=start)
    parts = [noise.normals(stream, (n,), offset=b) for b, n in zip(begins, lengths, strict=True)]
    assert torch.equal(torch.cat(parts), whole)


# Extreme words. Philox is a bijection: a block that holds given words can be computed.


def counter_of(words: tuple[int, int, int, int], key: int) -> tuple[int, int, int, int]:
    """Return the counter whose block under ``key`` is ``words``: the ten rounds backwards."""
    inverse0, inverse1 = pow(0xD2511F53, -1, 1 << 32), pow(0xCD9E8D57, -1, 1 << 32)
    a, b, c, d = words
    for turn in reversed(range(10)):
        key0 = (key + turn * 0x9E3779B9) & ALL
        key1 = ((key >> 32) + turn * 0xBB67AE85) & ALL
        before_a, before_c = d * inverse0 & ALL, b * inverse1 & ALL
        high0, high1 = before_a * 0xD2511F53 >> 32, before_c * 0xCD9E8D57 >> 32
        a, b, c, d = before_a, a ^ high1 ^ key0, before_c, c ^ high0 ^ key1
    return a, b, c, d


def block_holding(first: int, second: int) -> tuple[Stream, int]:
    """Return a stream and the offset of a block in it whose first two words are given."""
    seed = 42
    for third in itertools.count():
        a, b, step, sample = counter_of((first, second, third, 7), seed)
        if b < 1 << 31:  # within the positive int64 counters of the reference
            return Stream(seed, Purpose.WEIGHTS, step, sample), 4 * (a | b << 32)
    raise AssertionError


RADII = (0, 1, 2, 127, 2**24 + 1, 2**31 - 1, 2**31, 2**32 - 130, 2**32 - 129, 2**32 - 128, ALL)
TURNS = (0, 1, 2**29 - 1, 2**29, 2**29 + 1, 2**30, 3 * 2**29, 2**31, 5 * 2**29, 3 * 2**30, ALL)


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_words_give_the_normals_of_the_definition(level: int) -> None:
    for x, y in itertools.product(RADII, TURNS):
        stream, offset = block_holding(x, y)
        assert noise.words(stream, 2, offset=offset).tolist() == [x, y]
        u = float(torch.tensor((x + 0.5) / 2**32, dtype=torch.float64).float())
        radius, angle = math.sqrt(-2 * math.log(u)), 2 * math.pi * y / 2**32
        expected = torch.tensor([radius * math.cos(angle), radius * math.sin(angle)])
        for got in (
            kernel(noise.NORMALS, stream, offset, 2, level=level),
            reference(stream, offset, 2),
        ):
            assert torch.isfinite(got).all()
            assert close(got, expected, 1e-6), (x, y)


# Statistics


@pytest.fixture(scope="module")
def many() -> Tensor:
    return noise.normals(Stream(0, Purpose.WEIGHTS), (2**22,)).double()


def test_moments_are_those_of_a_standard_normal(many: Tensor) -> None:
    n = len(many)
    # The variance of x^k is E x^2k - (E x^k)^2, with E x^2k = (2k - 1)!!
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        error = (many**power).mean() - expected
        assert abs(error) < 5 * math.sqrt(variance / n), power


def test_tails_hold_what_a_normal_holds(many: Tensor) -> None:
    n = len(many)
    for bound in (0.1, 0.5, 1, 2, 3, 4, 4.5):
        p = math.erfc(bound / math.sqrt(2)) / 2
        for side in (1, -1):
            found = int((side * many > bound).sum())
            assert abs(found - n * p) < 5 * math.sqrt(n * p * (1 - p)), (bound, side)
    # P(no |x| of 2^22 beyond 4.5) is 4e-13; none can be beyond the radius of the smallest u
    assert 4.5 < many.abs().max() <= LARGEST * (1 + 1e-6)


def test_distribution_is_normal_everywhere(many: Tensor) -> None:
    n = len(many)
    cdf = torch.special.ndtr(many.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((cdf - steps[:-1]).max(), (steps[1:] - cdf).max())
    # Kolmogorov: P(sqrt(n) D > z) = 2 exp(-2 z^2) = 6e-7 at z = 2.74
    assert math.sqrt(n) * distance < 2.74


def correlation(x: Tensor, y: Tensor) -> float:
    """Return the correlation of variables of known mean 0 and variance 1 in standard errors."""
    return float((x * y).mean()) * math.sqrt(len(x))


def standard_square(x: Tensor) -> Tensor:
    return (x.square() - 1) / math.sqrt(2)


def test_neighbours_within_a_stream_are_independent(many: Tensor) -> None:
    for lag in (1, 2, 3, 4, 5, 8, 256, 1024):
        x, y = many[:-lag], many[lag:]
        assert abs(correlation(x, y)) < 5, lag
        assert abs(correlation(standard_square(x), standard_square(y))) < 5, lag


STREAMS = {
    "base": (Stream(3, Purpose.WEIGHTS, 5, 2), 0),
    "next sample": (Stream(3, Purpose.WEIGHTS, 5, 3), 0),
    "far sample": (Stream(3, Purpose.WEIGHTS, 5, 2 + 2**31), 0),
    "next step": (Stream(3, Purpose.WEIGHTS, 6, 2), 0),
    "step and sample swapped": (Stream(3, Purpose.WEIGHTS, 2, 5), 0),
    "prediction": (Stream(3, Purpose.PREDICTION, 5, 2), 0),
    "dropout": (Stream(3, Purpose.DROPOUT, 5, 2), 0),
    "next tensor": (Stream(3, Purpose.WEIGHTS, 5, 2), 2**18),
    "far tensor": (Stream(3, Purpose.WEIGHTS, 5, 2), 2**34),
    "next seed": (Stream(4, Purpose.WEIGHTS, 5, 2), 0),
    "seed above bit 32": (Stream(3 + 2**32, Purpose.WEIGHTS, 5, 2), 0),
    "highest seed bit": (Stream(3 + 2**47, Purpose.WEIGHTS, 5, 2), 0),
}


def test_streams_are_independent() -> None:
    drawn = {
        name: noise.normals(stream, (2**18,), offset=offset).double()
        for name, (stream, offset) in STREAMS.items()
    }
    for (first, x), (second, y) in itertools.combinations(drawn.items(), 2):
        assert abs(correlation(x, y)) < 5, (first, second)
        squares = correlation(standard_square(x), standard_square(y))
        assert abs(squares) < 5, (first, second)


def test_normals_have_shape_sign_and_dtype() -> None:
    stream = Stream(1, Purpose.WEIGHTS)
    plus, minus = noise.normals(stream, (3, 5)), noise.normals(stream, (3, 5), sign=-1.0)
    assert plus.shape == (3, 5) and plus.dtype == torch.float32
    assert torch.equal(plus, -minus)
