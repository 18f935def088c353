"""The fused draw against plain autograd with the same noise, and that it keeps no noise.

Tolerances: float64 1e-12 and float32 1e-6, relative to the largest value.
"""

import gc
import itertools

import pytest
import torch
from thread_group import cotangent
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.bayes import noise
from hpc_bnn.bayes.draw import draw_together
from hpc_bnn.bayes.noise import Key, Purpose, Stream

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
OFFSET = 13


def parameters(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(shape, generator=generator, dtype=dtype)
    log_sigma = torch.randn(shape, generator=generator, dtype=dtype) - 1
    return mu.requires_grad_(), log_sigma.requires_grad_()


def draw(mu: Tensor, log_sigma: Tensor, key: Key, offset: int = OFFSET, **how: bool) -> Tensor:
    (weights,) = draw_together([mu], [log_sigma], key, offset, **how)
    return weights


def plain(mu: Tensor, log_sigma: Tensor, key: Key, *, antithetic: bool = False) -> Tensor:
    """Return the draw as autograd knows it, its noise from the definition of the streams."""
    rows = []
    for s in key.samples:
        stream = Stream(key.seed, key.purpose, key.step, s // 2 if antithetic else s)
        sign = -1.0 if antithetic and s % 2 else 1.0
        rows.append(sign * noise.normals(stream, tuple(mu.shape), offset=OFFSET))
    return mu + torch.exp(log_sigma) * torch.stack(rows).to(mu.dtype)


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
    key = Key(3, 8, samples)
    mu, log_sigma = parameters((17, 31), dtype)
    got = draw(mu, log_sigma, key, antithetic=antithetic, keep=keep)
    expected = plain(mu, log_sigma, key, antithetic=antithetic)
    assert got.shape == (len(samples), 17, 31)
    assert close(got, expected)
    pairs = zip(gradients(got, mu, log_sigma), gradients(expected, mu, log_sigma), strict=True)
    for gradient, gradient_expected in pairs:
        assert close(gradient, gradient_expected)


def test_antithetic_pairs_mirror_each_other_and_differ_between_pairs() -> None:
    mu, log_sigma = parameters((100,))
    drawn = draw(mu, log_sigma, Key(3, 8, (0, 1, 2, 3)), antithetic=True)
    first, mirrored, second, _ = (drawn - mu).unbind()
    assert torch.allclose(first, -mirrored, atol=1e-6)
    assert not torch.allclose(first.abs(), second.abs(), atol=1e-2)


@pytest.mark.parametrize("part", ["seed", "step", "purpose", "sample", "offset"])
def test_every_part_of_the_name_changes_the_draw(part: str) -> None:
    mu, log_sigma = parameters((100,))
    other = {
        "seed": Key(4, 8, (2,)),
        "step": Key(3, 9, (2,)),
        "purpose": Key(3, 8, (2,), Purpose.PREDICTION),
        "sample": Key(3, 8, (3,)),
        "offset": Key(3, 8, (2,)),
    }[part]
    shift = draw(mu, log_sigma, Key(3, 8, (2,))) - mu
    other_shift = draw(mu, log_sigma, other, OFFSET + 100 * (part == "offset")) - mu
    assert not torch.allclose(shift, other_shift, atol=1e-2)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_belongs_to_the_position_whatever_the_memory_format(
    dtype: torch.dtype, keep: bool
) -> None:
    key = Key(3, 8, (0, 1))
    mu, log_sigma = (p.detach() for p in parameters((4, 6, 3, 5), dtype))
    expected = draw(mu, log_sigma, key, keep=keep)

    def strided(x: Tensor) -> Tensor:
        return x.transpose(0, 3).contiguous().transpose(0, 3).requires_grad_()

    def channels_last(x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last).requires_grad_()

    for arrange in (strided, channels_last):
        mu_view, log_sigma_view = arrange(mu), arrange(log_sigma)
        assert not mu_view.is_contiguous()
        weights = draw(mu_view, log_sigma_view, key, keep=keep)
        assert torch.equal(weights, expected)
        # A gradient that is itself not contiguous.
        got = gradients(weights.transpose(1, 4), mu_view, log_sigma_view)
        wanted = gradients(
            plain(mu_view, log_sigma_view, key).transpose(1, 4), mu_view, log_sigma_view
        )
        for gradient, gradient_expected in zip(got, wanted, strict=True):
            assert close(gradient, gradient_expected)


@pytest.mark.parametrize("samples", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("keep", [False, True])
def test_backward_twice_gives_the_gradient_twice(keep: bool, samples: tuple[int, ...]) -> None:
    mu, log_sigma = parameters((50,))
    loss = draw(mu, log_sigma, Key(3, 8, samples), keep=keep).square().sum()
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
    weights = [draw(mu, log_sigma, Key(3, 8, (s,)), keep=keep) for s in range(4)]
    together = torch.autograd.grad(sum(w.pow(3).sum() for w in weights), (mu, log_sigma))
    one_by_one = [torch.zeros(40), torch.zeros(40)]
    for s in range(4):
        single = draw(mu, log_sigma, Key(3, 8, (s,)), keep=keep)
        for total, part in zip(
            one_by_one, torch.autograd.grad(single.pow(3).sum(), (mu, log_sigma)), strict=True
        ):
            total += part
    for got, expected in zip(together, one_by_one, strict=True):
        assert close(got, expected)


def test_gradient_reaches_one_parameter_where_the_other_is_frozen() -> None:
    key = Key(3, 8, (0, 1))
    for frozen in (0, 1):
        leaves = list(parameters((30,)))
        leaves[frozen].requires_grad_(False)
        free = leaves[1 - frozen]
        (got,) = gradients(draw(*leaves, key), free)
        (expected,) = gradients(plain(*leaves, key), free)
        assert close(got, expected)


def test_a_second_derivative_is_refused_and_not_silently_wrong() -> None:
    mu, log_sigma = parameters((5,))
    weights = draw(mu, log_sigma, Key(3, 8, (0,)))
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
        weights = draw(mu, log_sigma, Key(3, 8, (0, 1, 2, 3)), keep=keep)
    assert [x.data_ptr() for x in saved] == [log_sigma.data_ptr()]
    own = {weights.untyped_storage().data_ptr()}
    assert len(living_memory(count) - own) == (1 if keep else 0)
    weights.sum().backward()
    assert living_memory(count) == own


def test_looped_samples_equal_one_draw_of_all() -> None:
    mu, log_sigma = parameters((9, 9))
    for keep, antithetic in itertools.product((False, True), (False, True)):
        how = {"antithetic": antithetic, "keep": keep}
        many = draw(mu, log_sigma, Key(3, 8, (2, 3, 4)), 4, **how)
        for row, s in enumerate((2, 3, 4)):
            assert torch.equal(many[row], draw(mu, log_sigma, Key(3, 8, (s,)), 4, **how)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("keep", [False, True])
def test_tensors_without_numbers_are_drawn_as_such(keep: bool, dtype: torch.dtype) -> None:
    """What a step traces before there is memory for it: shapes, types and devices are right."""
    shapes = [(17, 31), (5,), ()]
    with FakeTensorMode() as mode:
        mus = [torch.empty(s, dtype=dtype, requires_grad=True) for s in shapes]
        wide = torch.promote_types(dtype, torch.float32)
        log_sigmas = [torch.empty_like(mu, dtype=wide).requires_grad_() for mu in mus]
        drawn = draw_together(mus, log_sigmas, Key(3, 8, (0, 1)), keep=keep)
        pulled = torch.autograd.grad(sum(w.sum() for w in drawn), [*mus, *log_sigmas])
        words = noise.words(Stream(3, Purpose.DROPOUT), 7, device="cuda")
    assert [tuple(w.shape) for w in drawn] == [(2, *shape) for shape in shapes]
    assert {w.dtype for w in drawn} == {dtype}
    assert [(g.shape, g.dtype) for g in pulled] == [(p.shape, p.dtype) for p in (*mus, *log_sigmas)]
    assert {x.fake_mode for x in (*drawn, *pulled, words)} == {mode}
    assert (words.shape, words.dtype, words.device.type) == ((7,), torch.int64, "cuda")


def test_a_compiled_draw_is_the_draw() -> None:
    """One graph without breaks, forward and backward."""
    leaves = parameters((6, 7))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(mu: Tensor, log_sigma: Tensor) -> Tensor:
        return draw(mu, log_sigma, Key(3, 8, (0, 5)))

    got, expected = compiled(*leaves), draw(*leaves, Key(3, 8, (0, 5)))
    assert torch.equal(got, expected)
    pairs = zip(gradients(got, *leaves), gradients(expected, *leaves), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
