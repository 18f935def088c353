"""Langevin dynamics on Gaussian targets, where the stationary variance at any rate is known.

Chains and coordinates are independent, so the relative standard error of a variance over C chains
of W weights is sqrt(2 / (C W)), and nothing of a chain's history enters.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hpc_bnn.bayes.langevin import Dynamics, Langevin
from hpc_bnn.bayes.noise import Purpose, Stream, normals

SGLD = Dynamics(
    friction=1.0, temperature=1.0, burn_in=0, preconditioning=False, cycle=0, exploration=0.8
)
SGHMC = replace(SGLD, friction=0.2)
N, SEED = 50, 6
CHAINS, WEIGHTS = 16, 2048
STANDARD_ERROR = math.sqrt(2 / (CHAINS * WEIGHTS))


def sampler(rows: list[nn.Parameter], dynamics: Dynamics, lr: float, first: int = 0) -> Langevin:
    held = range(first, first + len(rows[0]))
    optimizer = Langevin(rows, dynamics, lr=lr, seed=SEED, samples=lambda: held)
    optimizer.num_examples = N
    return optimizer


def run(optimizer: Langevin, curvature: float | Sequence[float], steps: int) -> None:
    """Make steps on U = sum curvature w^2 / 2, whose mean over N examples is the objective; the
    curvature of each parameter or of all.
    """
    rows = optimizer.param_groups[0]["params"]
    each = [curvature] * len(rows) if isinstance(curvature, float) else curvature
    for _ in range(steps):
        for row, one in zip(rows, each, strict=True):
            row.grad = row.detach() * one / N
        optimizer.step()


def noise(step: int, chain: int, count: int, offset: int = 0) -> Tensor:
    return normals(Stream(SEED, Purpose.DYNAMICS, step, chain), (count,), offset=offset).double()


def two_rows(chains: int, seed: int = 1) -> list[nn.Parameter]:
    torch.manual_seed(seed)
    shapes = ((chains, 2, 3), (chains,))
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]


@pytest.mark.parametrize("dynamics", [SGLD, SGHMC, replace(SGHMC, temperature=0.3)])
def test_two_steps_by_hand(dynamics: Dynamics) -> None:
    rows, lr, alpha = two_rows(4), 0.7, dynamics.friction
    w = torch.cat([row.detach().reshape(4, -1) for row in rows], 1)
    v = torch.zeros_like(w)
    run(sampler(rows, dynamics, lr, first=5), 3.0, 2)
    scale = math.sqrt(2 * alpha * lr * dynamics.temperature / N)
    for step in range(2):
        eps = torch.stack([noise(step, 5 + chain, 7) for chain in range(4)])
        v = (1 - alpha) * v - lr * 3.0 / N * w + scale * eps
        w = w + v
    moved = torch.cat([row.detach().reshape(4, -1) for row in rows], 1)
    assert torch.allclose(moved, w, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dynamics", [SGLD, SGHMC], ids=["sgld", "sghmc"])
@pytest.mark.parametrize(("share", "temperature"), [(0.1, 1.0), (0.8, 1.0), (0.8, 0.05)])
def test_stationary_variance(dynamics: Dynamics, share: float, temperature: float) -> None:
    """``share`` h L / N of the curvature L is what a step takes: T / (L (1 - share / (2 (2 -
    alpha)))), far from T / L at 0.8.
    """
    curvature, alpha = 7.0, dynamics.friction
    lr = share * N / curvature
    expected = temperature / (curvature * (1 - share / (2 * (2 - alpha))))
    row = nn.Parameter(torch.zeros(CHAINS, WEIGHTS, dtype=torch.float64))
    run(sampler([row], replace(dynamics, temperature=temperature), lr), curvature, 60)
    assert float(row.detach().square().mean()) == pytest.approx(expected, rel=4 * STANDARD_ERROR)
    assert abs(float(row.detach().mean())) < 4 * math.sqrt(expected / row.numel())


def test_number_of_examples_enters_the_noise_alone() -> None:
    """The objective is a mean over examples: at one rate, more of them make the target narrower."""
    row = nn.Parameter(torch.zeros(CHAINS, WEIGHTS, dtype=torch.float64))
    optimizer = sampler([row], SGLD, lr=0.5)
    optimizer.num_examples = 10 * N
    run(optimizer, 1.0 * N, 60)  # of the mean: 1, so of U: 10 N
    expected = 1 / (10 * N * (1 - 0.5 / 2))
    assert float(row.detach().square().mean()) == pytest.approx(expected, rel=4 * STANDARD_ERROR)


@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_preconditioned_chains_have_the_same_target(alpha: float) -> None:
    """Steps take 0.05 and 0.5 of curvatures 1 and 100, which one rate for all would by 1 to 100."""
    curvatures = (1.0, 100.0)
    rows = [
        nn.Parameter(torch.randn(CHAINS, WEIGHTS, dtype=torch.float64) / math.sqrt(curvature))
        for curvature in curvatures
    ]
    dynamics = replace(SGLD, friction=alpha, preconditioning=True, burn_in=40)
    optimizer = sampler(rows, dynamics, lr=0.05)
    run(optimizer, curvatures, 40)
    squares = [optimizer.state[row]["squares"].clone() for row in rows]
    run(optimizer, curvatures, 60)
    for row, curvature, before, share in zip(rows, curvatures, squares, (0.05, 0.5), strict=True):
        assert torch.equal(optimizer.state[row]["squares"], before)
        scale = 1 / ((before / (1 - 0.99**40)).sqrt() + 1e-5)
        assert float(scale.mean()) * 0.05 * curvature / N == pytest.approx(share, rel=0.3)
        expected = 1 / (1 - 0.05 * scale * curvature / N / (2 * (2 - alpha)))
        ratio = float((row.detach().square() * curvature / expected).mean())
        assert ratio == pytest.approx(1, rel=4 * STANDARD_ERROR)


def test_squares_are_a_moving_mean_of_burn_in() -> None:
    row = nn.Parameter(torch.ones(1, 2, dtype=torch.float64))
    dynamics = replace(SGLD, preconditioning=True, burn_in=2, temperature=1e-30)
    optimizer = sampler([row], dynamics, lr=0.1)
    expected = 1.0
    squares = 0.0
    for step, grad in enumerate((2.0, -3.0, 5.0)):
        row.grad = torch.tensor([[grad, 3 * grad]], dtype=torch.float64)
        optimizer.step()
        if step < 2:
            squares = 0.99 * squares + 0.01 * 5 * grad**2
        root = math.sqrt(squares / (1 - 0.99 ** min(step + 1, 2)))
        expected -= 0.1 * grad / (root + 1e-5)
        assert row[0, 0].item() == pytest.approx(expected, rel=1e-12)


def test_chains_are_the_same_whoever_holds_them() -> None:
    whole, part = two_rows(6), [nn.Parameter(row.detach()[2:5].clone()) for row in two_rows(6)]
    run(sampler(whole, SGHMC, lr=1.0), 3.0, 5)
    run(sampler(part, SGHMC, lr=1.0, first=2), 3.0, 5)
    for own, row in zip(part, whole, strict=True):
        assert torch.equal(own, row[2:5])
        assert not torch.equal(own[0], own[1])


def test_a_state_goes_on_where_it_stopped() -> None:
    dynamics = replace(SGHMC, preconditioning=True, burn_in=3, cycle=4)
    straight, stopped = two_rows(2), two_rows(2)
    run(sampler(straight, dynamics, lr=1.0), 3.0, 7)
    first = sampler(stopped, dynamics, lr=1.0)
    run(first, 3.0, 2)
    then = sampler(stopped, dynamics, lr=0.5)
    then.load_state_dict(first.state_dict())
    run(then, 3.0, 5)
    assert all(torch.equal(a, b) for a, b in zip(straight, stopped, strict=True))


def test_cycles() -> None:
    """Rates of four steps a cycle, by hand; half of it has no noise."""
    cyclical = replace(SGLD, cycle=4, exploration=0.5)
    factors = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert [cyclical.factor(step) for step in range(8)] == pytest.approx(factors * 2)
    assert [cyclical.explores(step) for step in range(8)] == [True, True, False, False] * 2
    assert SGLD.factor(3) == 1.0
    assert not SGLD.explores(0)
    row = nn.Parameter(torch.ones(1, 3, dtype=torch.float64))
    optimizer = sampler([row], cyclical, lr=0.5)
    w = row.detach().clone()
    for step in range(6):
        run(optimizer, 2.0, 1)
        rate = 0.5 * factors[step % 4]
        w = w - rate * 2.0 / N * w
        if step % 4 >= 2:
            w = w + math.sqrt(2 * rate / N) * noise(step, 0, 3)
        assert torch.allclose(row.detach(), w, rtol=0, atol=1e-14)


def test_weights_without_a_gradient_stay() -> None:
    first, second = two_rows(2)
    before = second.detach().clone()
    optimizer = sampler([first, second], SGHMC, lr=0.1)
    first.grad = torch.zeros_like(first)
    optimizer.step()
    assert torch.equal(second, before)
    assert first.grad is not None
    optimizer.zero_grad()
    assert first.grad is None


def test_steps_without_a_number_of_examples_are_refused() -> None:
    rows = two_rows(2)
    optimizer = Langevin(rows, SGLD, lr=0.1, seed=0, samples=lambda: range(2))
    with pytest.raises(RuntimeError, match=r"number of training examples, which hb\.Step tells"):
        optimizer.step()
