"""Small tensors taken together: which, and that nothing changes by it."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hpc_bnn.bayes.draw import (
    LAUNCH,
    SMALL,
    TOGETHER,
    draw_together,
    flatten,
    groups,
    unflatten,
)
from hpc_bnn.bayes.noise import Key


def cut(
    counts: list[int], kinds: list[object] | None = None, *, device: str = "cpu", **how: bool
) -> list[tuple[int, int]]:
    with FakeTensorMode():
        tensors = [torch.empty(count, device=device) for count in counts]
    found = groups(tensors, kinds or [None] * len(counts), **how)
    return [(group.start, group.stop) for group in found]


def test_small_neighbours_go_together_and_large_ones_alone() -> None:
    assert cut([5, 1, 7]) == [(0, 3)]
    assert cut([5, SMALL + 1, 7, 3]) == [(0, 1), (1, 2), (2, 4)]
    assert cut([SMALL + 1, SMALL + 1]) == [(0, 1), (1, 2)]
    full = TOGETHER // SMALL
    assert cut([SMALL] * (full + 1)) == [(0, full), (full, full + 1)]


def test_on_gpus_what_is_not_copied_goes_together_up_to_the_cost_of_a_launch() -> None:
    counts = [SMALL + 1, 5, TOGETHER + 1, LAUNCH, 3]
    apart = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert cut(counts, device="cuda", copied=False) == [(0, 3), (3, 4), (4, 5)]
    assert cut(counts, device="cuda") == cut(counts, copied=False) == cut(counts) == apart


def test_tensors_that_differ_are_never_put_together() -> None:
    assert cut([5, 5, 5], [1.0, 1.0, 2.0]) == [(0, 2), (2, 3)]
    doubles = [torch.zeros(3), torch.zeros(3, dtype=torch.float64)]
    assert list(groups(doubles, [0, 0])) == [slice(0, 1), slice(1, 2)]


def test_unflatten_undoes_flatten_whatever_the_memory_format() -> None:
    parts = [torch.randn(2, 3), torch.randn(4, 5).T, torch.randn(())]
    row = flatten(parts)
    assert torch.equal(row, torch.cat([part.reshape(-1) for part in parts]))
    back = unflatten(row, [part.shape for part in parts])
    assert all(map(torch.equal, back, parts))
    assert flatten(parts[:1]).data_ptr() == parts[0].data_ptr(), "one alone is not copied"
    samples = [torch.randn(2, 3), torch.randn(2, 4, 5)]
    assert all(
        map(
            torch.equal,
            unflatten(flatten(samples, samples=True), [torch.Size([3]), torch.Size([4, 5])]),
            samples,
        )
    )


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_drawn_together_are_those_drawn_alone(
    keep: bool, antithetic: bool, dtype: torch.dtype
) -> None:
    """Bit for bit, the gradients too."""
    torch.manual_seed(3)
    shapes = [(3, 5), (7,), (2, 3, 4)]
    mus = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    log_sigmas = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    draw = partial(draw_together, key=Key(3, 8, (2, 3)), antithetic=antithetic, keep=keep)
    together = draw(mus, log_sigmas, offset=11)
    offsets = [11, 11 + 15, 11 + 15 + 7]
    pairs = zip(mus, log_sigmas, offsets, strict=True)
    alone = [draw([mu], [log_sigma], offset=at)[0] for mu, log_sigma, at in pairs]
    assert all(map(torch.equal, together, alone))
    leaves = [*mus, *log_sigmas]

    def gradients(weights: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(sum(w.pow(3).sum() for w in weights), leaves)  # type: ignore[arg-type]

    assert all(map(torch.equal, gradients(list(together)), gradients(alone)))
