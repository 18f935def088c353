"""Draw and pull of several tensors and samples in one call of the C kernel: bit for bit those of a
call for each tensor and sample.
"""

from itertools import accumulate

import pytest
import torch
from torch import Tensor

from hpc_bnn.bayes import _noise, noise_cpu
from hpc_bnn.bayes.draw import signed_streams
from hpc_bnn.bayes.noise import DRAW, PULL, Key

SHAPES = [(), (1,), (3, 2), (0,), (257,), (2, 3, 5), (1024,), (6,)]
KEYS = [Key(3, 8, (0,)), Key(3, 8, (4, 5)), Key(5, 2, (0, 1, 2, 3, 7))]


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) - 1 for shape in SHAPES]


def slots(offset: int) -> list[tuple[int, int, int]]:
    """Return first element in a row, elements and offset in the streams of each tensor."""
    counts = [tensor.numel() for tensor in tensors(0)]
    starts = accumulate(counts, initial=0)
    return [(start, n, offset + start) for start, n in zip(starts, counts, strict=False)]


COUNT = sum(tensor.numel() for tensor in tensors(0))


@pytest.mark.parametrize("offset", [0, 4, 13])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("key", KEYS, ids=str)
@pytest.mark.parametrize("own_means", [False, True])
def test_draws(key: Key, antithetic: bool, offset: int, own_means: bool) -> None:
    mus, log_sigmas, samples = tensors(0), tensors(1), len(key.samples)
    rows = torch.randn(samples, COUNT + 3)[:, :COUNT]
    out, keep = (torch.full((samples, COUNT + 5), torch.nan)[:, :COUNT] for _ in range(2))
    means = rows if own_means else mus
    noise_cpu.draw(out, means, log_sigmas, key, offset, antithetic=antithetic, keep=keep)
    for s, (stream, sign) in enumerate(signed_streams(key, antithetic=antithetic)):
        each = zip(slots(offset), mus, log_sigmas, strict=True)
        for (start, n, position), mu, log_sigma in each:
            given = rows[s, start : start + n].contiguous() if own_means else mu.flatten()
            value, shift = torch.empty(n), torch.empty(n)
            noise_cpu.fill(
                *(DRAW, value, stream, position),
                sign=sign,
                mu=given,
                log_sigma=log_sigma.flatten(),
                keep=shift,
            )
            assert torch.equal(out[s, start : start + n], value)
            assert torch.equal(keep[s, start : start + n], shift)
    again = torch.empty_like(out)
    noise_cpu.draw(again, means, log_sigmas, key, offset, antithetic=antithetic)
    assert torch.equal(again, out)


@pytest.mark.parametrize("offset", [0, 4, 13])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_pulls_are_summed_over_samples(key: Key, antithetic: bool, offset: int) -> None:
    log_sigmas, grad = tensors(1), torch.randn(len(key.samples), COUNT)
    out = torch.full((COUNT,), torch.nan)
    noise_cpu.pull(out, grad, log_sigmas, key, offset, antithetic=antithetic)
    for (start, n, position), log_sigma in zip(slots(offset), log_sigmas, strict=True):
        total: Tensor | None = None
        for s, (stream, sign) in enumerate(signed_streams(key, antithetic=antithetic)):
            part = torch.empty(n)
            given = {"grad": grad[s, start : start + n], "log_sigma": log_sigma.flatten()}
            noise_cpu.fill(PULL, part, stream, position, sign=sign, **given)
            total = part if total is None else total + part
        assert torch.equal(out[start : start + n], total)


def test_threads_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, key = [70_001, 3, 130_000], Key(1, 1, (0, 1, 2))
    generator = torch.Generator().manual_seed(0)
    mus, log_sigmas = ([torch.randn(size, generator=generator) for size in sizes] for _ in range(2))
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        out, pulled = torch.empty(3, sum(sizes)), torch.empty(sum(sizes))
        noise_cpu.draw(out, mus, log_sigmas, key, 5, antithetic=False)
        noise_cpu.pull(pulled, out, log_sigmas, key, 5, antithetic=False)
        found.append((out, pulled))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_lists_that_do_not_fit_together_are_refused() -> None:
    out = torch.empty(1, 4)
    address = out.data_ptr()
    for mus, counts, signs in (([], [4], [1.0]), ([address], [], [1.0]), ([address], [4], [])):
        given = (DRAW, address, 0, 0, 4, mus, 0, [address], counts, 0, 0, [0], signs, 0, 0, 1, 0)
        with pytest.raises(ValueError, match="rows: task 2 of 1 tensors"):
            _noise.rows(*given)
    given = (DRAW, address, 0, 0, 4, [address], 0, [address], ["4"], 0, 0, [0], [1.0], 0, 0, 1, 0)
    with pytest.raises(TypeError):
        _noise.rows(*given)
