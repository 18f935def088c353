"""Noise whose step and sample are read from the device when it is made: that of the sums."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn import bayes
from hpc_bnn.bayes import noise, noise_cpu, noise_reference
from hpc_bnn.bayes.noise import DRAW, NORMALS, PULL, WORDS, Key, Purpose, Stream
from hpc_bnn.bayes.posterior import Posterior

COUNT, OFFSET = 1030, 3
LAST = 2**32 - 1


def shift_of(step: int, sample: int) -> Tensor:
    return torch.tensor([step, sample])


@pytest.mark.parametrize("kernel", [noise_cpu, noise_reference])
@pytest.mark.parametrize("task", [WORDS, NORMALS, DRAW, PULL])
@pytest.mark.parametrize(("step", "sample"), [(0, 0), (3, 5), (LAST, 9), (7, LAST)])
def test_the_numbers_are_those_of_the_sums(
    kernel: object, task: int, step: int, sample: int
) -> None:
    fill = kernel.fill  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(COUNT, generator=generator) for _ in range(3)]
    given = {
        DRAW: {"mu": inputs[0], "log_sigma": inputs[1]},
        PULL: {"grad": inputs[2], "log_sigma": inputs[1]},
    }.get(task, {})
    dtype = torch.int32 if task == WORDS else torch.float32
    got, expected = (torch.zeros(COUNT, dtype=dtype) for _ in range(2))
    fill(task, expected, Stream(5, Purpose.FACTOR, step, sample), OFFSET, **given)
    for own_step, own_sample in ((0, 0), (step, 0), (step // 2, sample // 3)):
        shift = shift_of(step - own_step, sample - own_sample)
        moved = Stream(5, Purpose.FACTOR, own_step, own_sample, shift)
        got.zero_()
        fill(task, got, moved, OFFSET, **given)
        assert torch.equal(got, expected)


def test_the_shift_is_read_when_the_numbers_are_made() -> None:
    shift = shift_of(0, 0)
    stream, out = Stream(1, Purpose.WEIGHTS, shift=shift), torch.empty(8)
    for step, sample in ((2, 3), (4, 0)):
        shift.copy_(shift_of(step, sample))
        noise.fill(NORMALS, out, stream, 0)
        assert torch.equal(out, noise.normals(Stream(1, Purpose.WEIGHTS, step, sample), (8,)))
        assert stream.resolved() == Stream(1, Purpose.WEIGHTS, step, sample)
        assert stream.resolved().shift is None


def test_the_operator_for_compiled_networks_takes_it() -> None:
    stream = Stream(1, Purpose.WEIGHTS, 1, 2, shift_of(3, 4))
    out = torch.empty(8)
    name = stream.seed, int(stream.purpose), stream.step, stream.sample
    noise._fill(NORMALS, out, None, None, None, None, stream.shift, *name, 0, 1.0)
    assert torch.equal(out, noise.normals(Stream(1, Purpose.WEIGHTS, 4, 6), (8,)))


POSTERIORS: dict[str, Callable[[nn.Module], Posterior]] = {
    "gaussian": lambda network: bayes.Gaussian(network),
    "gaussian antithetic": lambda network: bayes.Gaussian(network, antithetic=True),
    "gaussian keep_noise": lambda network: bayes.Gaussian(network, keep_noise=True),
    "low_rank": lambda network: bayes.LowRank(network, rank=2, antithetic=True),
    "rank1": lambda network: bayes.Rank1(network),
}


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_and_their_gradients_are_those_of_the_sums(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).to(dtype)
    posterior = POSTERIORS[name](network)

    def run(key: Key) -> list[Tensor]:
        posterior.zero_grad()
        drawn = posterior.sample(key)
        torch.autograd.backward([(weight * weight.cos()).sum() for weight in drawn.values()])
        gradients = [p.grad for p in posterior.parameters() if p.grad is not None]
        return [*drawn.values(), *gradients]

    expected = run(posterior.key(6, [3, 4]))
    for samples, shift in (((0, 1), (6, 3)), ((3, 4), (6, 0)), ((1, 2), (6, 2))):
        key = replace(posterior.key(0, samples), shift=shift_of(*shift))
        got = run(key)
        assert len(got) == len(expected) > len(posterior.names)
        assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize("masks", ["example", "sample"])
def test_masks_are_those_of_the_sums(masks: Literal["example", "sample"]) -> None:
    network = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5))
    for posterior in (bayes.Dropout(network, masks=masks), bayes.Gaussian(network)):

        def run(key: Key, posterior: Posterior = posterior) -> Tensor:
            dropout = posterior.dropout(key, examples=3, first_example=2)
            assert dropout is not None
            with dropout:
                return nn.functional.dropout(torch.ones(3, 64), 0.5)

        shifted = replace(posterior.key(0, [0]), shift=shift_of(6, 3))
        assert torch.equal(run(shifted), run(posterior.key(6, [3])))
        assert not torch.equal(run(shifted), run(posterior.key(6, [2])))
