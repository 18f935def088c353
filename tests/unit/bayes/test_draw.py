"""The fused draw against plain autograd with the same noise, and that it keeps no noise.

Tolerances: float64 1e-12 and float32 1e-6, relative to the largest value.
"""

import gc
import itertools

import pytest
import torch
from thread_group import cotangent
from torch import Tensor

from hpc_bnn.bayes import noise
from hpc_bnn.bayes.draw import Draws, draw
from hpc_bnn.bayes.noise import Purpose, Stream

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
OFFSET = 13


def parameters(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(shape, generator=generator, dtype=dtype)
    log_sigma = torch.randn(shape, generator=generator, dtype=dtype) - 1
    return mu.requires_grad_(), log_sigma.requires_grad_()


def eps_of(draws: Draws, shape: tuple[int, ...], offset: int = OFFSET) -> Tensor:
    """Return the noise (S, *shape) of the draws from the definition of their streams."""
    streams = [
        (Stream(draws.seed, draws.purpose, draws.step, s // 2 if draws.antithetic else s), s)
        for s in draws.samples
    ]
    signs = [-1.0 if draws.antithetic and s % 2 else 1.0 for s in draws.samples]
    return torch.stack(
        [
            sign * noise.normals(stream, shape, offset=offset)
            for (stream, _), sign in zip(streams, signs, strict=True)
        ]
    )


def plain(mu: Tensor, log_sigma: Tensor, draws: Draws) -> Tensor:
    """Return the draw as autograd knows it."""
    return mu + torch.exp(log_sigma) * eps_of(draws, tuple(mu.shape)).to(mu.dtype)


def close(got: Tensor, expected: Tensor) -> bool:
    tolerance = TOLERANCE[expected.dtype] * float(expected.detach().abs().max())
    return got.dtype == expected.dtype and torch.allclose(got, expected, rtol=0, atol=tolerance)


def gradients(weights: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Return the gradients under a fixed cotangent that differs between samples and elements."""
    fixed = cotangent(weights.shape).to(weights.dtype)
    return torch.autograd.grad((weights * fixed).sum(), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("samples", [(0,), (1,), (4, 5), (0, 1, 2, 3, 7)])
def test_values_and_gradients_equal_plain_autograd(
    samples: tuple[int, ...], antithetic: bool, keep: bool, dtype: torch.dtype
) -> None:
    draws = Draws(3, 8, samples, antithetic=antithetic, keep=keep)
    mu, log_sigma = parameters((17, 31), dtype)
    got, expected = draw(mu, log_sigma, draws, OFFSET), plain(mu, log_sigma, draws)
    assert got.shape == (len(samples), 17, 31)
    assert close(got, expected)
    pairs = zip(gradients(got, mu, log_sigma), gradients(expected, mu, log_sigma), strict=True)
    for gradient, gradient_expected in pairs:
        assert close(gradient, gradient_expected)


def test_antithetic_pairs_mirror_each_other_and_differ_between_pairs() -> None:
    mu, log_sigma = parameters((100,))
    draws = Draws(3, 8, (0, 1, 2, 3), antithetic=True)
    first, mirrored, second, _ = (draw(mu, log_sigma, draws, OFFSET) - mu).unbind()
    assert torch.allclose(first, -mirrored, atol=1e-6)
    assert not torch.allclose(first.abs(), second.abs(), atol=1e-2)


@pytest.mark.parametrize("part", ["seed", "step", "purpose", "sample", "offset"])
def test_every_part_of_the_name_changes_the_draw(part: str) -> None:
    mu, log_sigma = parameters((100,))
    other = {
        "seed": Draws(4, 8, (2,)),
        "step": Draws(3, 9, (2,)),
        "purpose": Draws(3, 8, (2,), Purpose.PREDICTION),
        "sample": Draws(3, 8, (3,)),
        "offset": Draws(3, 8, (2,)),
    }[part]
    shift = draw(mu, log_sigma, Draws(3, 8, (2,)), OFFSET) - mu
    other_shift = draw(mu, log_sigma, other, OFFSET + 100 * (part == "offset")) - mu
    assert not torch.allclose(shift, other_shift, atol=1e-2)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_belongs_to_the_position_whatever_the_memory_format(
    dtype: torch.dtype, keep: bool
) -> None:
    draws = Draws(3, 8, (0, 1), keep=keep)
    mu, log_sigma = (p.detach() for p in parameters((4, 6, 3, 5), dtype))
    expected = draw(mu, log_sigma, draws, OFFSET)

    def strided(x: Tensor) -> Tensor:
        return x.transpose(0, 3).contiguous().transpose(0, 3).requires_grad_()

    def channels_last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    for arrange in (strided, channels_last):
        mu_view, log_sigma_view = arrange(mu), arrange(log_sigma)
        assert not mu_view.is_contiguous()
        weights = draw(mu_view, log_sigma_view, draws, OFFSET)
        assert torch.equal(weights, expected)
        # A gradient that is itself not contiguous.
        got = gradients(weights.transpose(1, 4), mu_view, log_sigma_view)
        wanted = gradients(
            plain(mu_view, log_sigma_view, draws).transpose(1, 4), mu_view, log_sigma_view
        )
        for gradient, gradient_expected in zip(got, wanted, strict=True):
            assert close(gradient, gradient_expected)


@pytest.mark.parametrize("samples", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("keep", [False, True])
def test_backward_twice_gives_the_gradient_twice(keep: bool, samples: tuple[int, ...]) -> None:
    mu, log_sigma = parameters((50,))
    loss = draw(mu, log_sigma, Draws(3, 8, samples, keep=keep), OFFSET).square().sum()
    loss.backward(retain_graph=True)
    once = mu.grad.clone(), log_sigma.grad.clone()
    loss.backward()
    for parameter, gradient in zip((mu, log_sigma), once, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, 2 * gradient, rtol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
def test_gradient_does_not_depend_on_which_draws_came_after(keep: bool) -> None:
    """Peers refill one noise buffer on every forward: all samples get the noise of the last."""
    mu, log_sigma = parameters((40,))
    weights = [draw(mu, log_sigma, Draws(3, 8, (s,), keep=keep), OFFSET) for s in range(4)]
    together = torch.autograd.grad(sum(w.pow(3).sum() for w in weights), (mu, log_sigma))
    one_by_one = [torch.zeros(40), torch.zeros(40)]
    for s in range(4):
        single = draw(mu, log_sigma, Draws(3, 8, (s,), keep=keep), OFFSET)
        for total, part in zip(
            one_by_one, torch.autograd.grad(single.pow(3).sum(), (mu, log_sigma)), strict=True
        ):
            total += part
    for got, expected in zip(together, one_by_one, strict=True):
        assert close(got, expected)


def test_gradient_reaches_one_parameter_where_the_other_is_frozen() -> None:
    draws = Draws(3, 8, (0, 1))
    for frozen in (0, 1):
        leaves = list(parameters((30,)))
        leaves[frozen].requires_grad_(False)
        free = leaves[1 - frozen]
        (got,) = gradients(draw(*leaves, draws, OFFSET), free)
        (expected,) = gradients(plain(*leaves, draws), free)
        assert close(got, expected)


def test_a_second_derivative_is_refused_and_not_silently_wrong() -> None:
    mu, log_sigma = parameters((5,))
    weights = draw(mu, log_sigma, Draws(3, 8, (0,)), OFFSET)
    (first,) = torch.autograd.grad(weights.pow(3).sum(), log_sigma, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def living_memory(count: int) -> set[int]:
    """Return the addresses of what tensors of ``count`` elements hold."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) is Tensor and x.numel() == count]
    return {x.untyped_storage().data_ptr() for x in tensors}


@pytest.mark.parametrize("keep", [False, True])
def test_only_keep_holds_noise_until_backward(keep: bool) -> None:
    count = 4 * 12345  # a size that no other tensor has
    mu, log_sigma = parameters((12345,))
    saved: list[Tensor] = []

    def pack(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        weights = draw(mu, log_sigma, Draws(3, 8, (0, 1, 2, 3), keep=keep), OFFSET)
    assert [x.data_ptr() for x in saved] == [log_sigma.data_ptr()]
    own = {weights.untyped_storage().data_ptr()}
    assert len(living_memory(count) - own) == (1 if keep else 0)
    weights.sum().backward()
    assert living_memory(count) == own


def test_looped_samples_equal_one_draw_of_all() -> None:
    mu, log_sigma = parameters((9, 9))
    for keep, antithetic in itertools.product((False, True), (False, True)):
        many = draw(mu, log_sigma, Draws(3, 8, (2, 3, 4), Purpose.WEIGHTS, antithetic, keep), 4)
        for row, s in enumerate((2, 3, 4)):
            single = Draws(3, 8, (s,), Purpose.WEIGHTS, antithetic, keep)
            assert torch.equal(many[row], draw(mu, log_sigma, single, 4)[0])
