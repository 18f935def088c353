"""Labels and targets of which no loss is finite: named by the step, whatever their type."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hpc_bnn as hb
from hpc_bnn.losses.base import Loss
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.verify import scores

B = 8
X = torch.cos(torch.arange(B * 6.0)).reshape(B, 6)
KINDS: dict[str, Callable[[], Loss]] = {
    "expected": hb.losses.categorical_nll,
    "predictive": lambda: hb.losses.categorical_nll(predictive=True),
}
INTEGERS = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)


def data_term(loss: Loss, y: Tensor, outputs: int = 3) -> float:
    torch.manual_seed(0)
    posterior = hb.Gaussian(nn.Linear(6, outputs))
    before = [p.detach().clone() for p in posterior.parameters()]
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.1)
    world = hb.World(Grid(1, 1, 0), torch.device("cpu"))
    step = hb.Step(posterior, loss, optimizer, world, samples=2, num_examples=32)
    try:
        step(X, y)
    except Exception:
        for old, new in zip(before, posterior.parameters(), strict=True):
            assert torch.equal(old, new)
        raise
    assert step.report is not None
    return step.report.data_loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.bool], ids=str)
def test_labels_of_any_integer_type_are_classes(dtype: torch.dtype, kind: str) -> None:
    y = torch.arange(B) % 2
    assert data_term(KINDS[kind](), y.to(dtype)) == data_term(KINDS[kind](), y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("label", "dtype"),
    [
        (255, torch.uint8),
        (-1, torch.int8),
        (3, torch.int64),
        (-1, torch.int64),
        (-100, torch.int64),
        (-100, torch.int16),
        (2**62, torch.int64),
    ],
)
@pytest.mark.parametrize("first", [0, 4])
def test_a_label_that_is_no_class_is_named(
    kind: str, label: int, dtype: torch.dtype, first: int
) -> None:
    y = torch.zeros(B, dtype=dtype)
    y[first:] = label
    name = str(dtype).removeprefix("torch.")
    words = rf"target {label} \({name}, example {first} of .*expected classes 0 to 2"
    with pytest.raises(ValueError, match=words):
        data_term(KINDS[kind](), y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("y", "outputs", "words"),
    [
        (torch.zeros(B), 3, r"targets \(8,\) of float32: expected class indices.*y\.long\(\)"),
        (torch.full((B, 3), 1 / 3), 3, r"targets \(8, 3\) of float32: .*y\.argmax\(1\).*probabil"),
        (torch.zeros(B, 1).long(), 3, r"logits of \(8, 3\) for targets of \(8, 1\)"),
        (torch.zeros(B).long(), 1, r"logits of \(8, 1\).*at least two classes"),
    ],
)
def test_what_is_no_label_is_named(kind: str, y: Tensor, outputs: int, words: str) -> None:
    with pytest.raises(ValueError, match=f"categorical_nll: {words}"):
        data_term(KINDS[kind](), y, outputs)


REGRESSION: dict[str, Callable[[], Loss]] = {
    "nll": hb.losses.gaussian_nll,
    "predictive": lambda: hb.losses.gaussian_nll(predictive=True),
    "moments": hb.losses.gaussian_moments,
    "crps": hb.losses.fair_crps,
}


@pytest.mark.parametrize("kind", REGRESSION)
def test_targets_of_regression(kind: str) -> None:
    y = torch.arange(B * 3).reshape(B, 3) % 5
    expected = data_term(REGRESSION[kind](), y.float())
    for dtype in (torch.int64, torch.uint8, torch.float64, torch.float16):
        assert data_term(REGRESSION[kind](), y.to(dtype)) == pytest.approx(expected, rel=1e-6)
    holed = y.float()
    holed[5, 1] = torch.nan
    with pytest.raises(ValueError, match=r"target of example 5 .* 1 numbers .* such as nan"):
        data_term(REGRESSION[kind](), holed)
    for dtype, name in ((torch.bool, "bool"), (torch.complex64, "complex64")):
        with pytest.raises(ValueError, match=f"targets are {name}: expected real numbers"):
            data_term(REGRESSION[kind](), y.to(dtype))
    with pytest.raises(ValueError, match=r"gives \(8, 1\) for targets of \(8,\)"):
        data_term(REGRESSION[kind](), y[:, 0].float(), 1)


def test_a_loss_that_is_not_finite_for_finite_targets_is_one_of_the_step() -> None:
    with pytest.raises(FloatingPointError, match="step 0: loss = inf"):
        data_term(hb.losses.gaussian_nll(), torch.full((B, 3), 1e30))


@pytest.mark.parametrize("score", [scores.categorical_nll, scores.brier, scores.correct])
def test_scores_take_the_same_labels(score: Callable[[Tensor, Tensor], Tensor]) -> None:
    log_prob, y = X[:, :3].log_softmax(1), torch.arange(B) % 3
    for dtype in INTEGERS:
        assert torch.equal(score(log_prob, y.to(dtype)), score(log_prob, y))
    for label in (-100, 255):
        with pytest.raises(ValueError, match=rf"y holds classes .*{label}.*expected 0 to 2"):
            score(log_prob, torch.where(y == 1, label, y))
    with pytest.raises(ValueError, match="y of float32: expected class indices"):
        score(log_prob, y.float())
