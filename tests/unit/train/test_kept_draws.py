"""A member is drawn once for all starts as far as its weights fit; the bytes stay the same."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_forecast_on_threads import FLOAT32
from test_forecast_sets import MEMBERS, STARTS, STEPS, contents, make
from torch import nn
from toy_weather import ALONE_WORLD, toy_source, toy_trained, write_small_toy

from hpc_bnn.bayes import Dropout, Ensemble, Gaussian
from hpc_bnn.bayes.noise import Key
from hpc_bnn.train.score.kept_draws import KEPT_BYTES, KeptDraws, kept_bytes, size_of

WEIGHTS_BYTES = 4 * (4 * 3 + 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_toy(tmp_path_factory.mktemp("toy"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def counting(monkeypatch: pytest.MonkeyPatch, method: type) -> Counter[tuple[int, int]]:
    """Return what will count the draws of each (member, draw)."""
    calls, sample = Counter[tuple[int, int]](), method.sample  # type: ignore[attr-defined]

    def counted(self: Any, key: Key) -> Any:
        calls[key.samples[0], key.step] += 1
        return sample(self, key)

    monkeypatch.setattr(method, "sample", counted)
    return calls


@pytest.mark.parametrize("redraw", ["never", "each_step"])
@pytest.mark.parametrize("perturbed", [False, True])
def test_each_member_is_drawn_once_and_the_bytes_are_the_same(
    tmp_path: Path,
    folder: Path,
    redraw: str,
    perturbed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hpc_bnn.train.score.dealt_starts.AT_ONCE", 4)  # batches of 3, 3 and 4
    changes: dict[str, Any] = FLOAT32 | {"forecast": {"redraw": redraw}}
    if perturbed:
        changes["perturb"] = {"name": "gaussian", "scale": 0.1}
    calls = counting(monkeypatch, Gaussian)
    trained = toy_trained(folder, toy_source(folder, **changes), **changes)
    calls.clear()
    make(ALONE_WORLD, tmp_path / "kept.nc", trained)
    draws = range(STEPS if redraw == "each_step" else 1)
    assert calls == {(member, draw): 1 for member in range(MEMBERS) for draw in draws}
    calls.clear()
    monkeypatch.setattr("hpc_bnn.train.score.forecast.KEPT_BYTES", 0)
    make(ALONE_WORLD, tmp_path / "anew.nc", trained)
    assert min(calls.values()) == 3  # once a batch
    assert list(contents(tmp_path / "kept.nc").values()) == list(
        contents(tmp_path / "anew.nc").values()
    )


def test_one_start_keeps_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room: list[int] = []
    begin: Callable[..., None] = KeptDraws.__init__

    def noted(self: KeptDraws, posterior: Any, most_bytes: int) -> None:
        room.append(most_bytes)
        begin(self, posterior, most_bytes)

    monkeypatch.setattr(KeptDraws, "__init__", noted)
    trained = toy_trained(folder, toy_source(folder, **FLOAT32), **FLOAT32)
    make(ALONE_WORLD, tmp_path / "one.nc", trained, starts=STARTS[:1])
    make(ALONE_WORLD, tmp_path / "two.nc", trained, starts=STARTS[:2])
    assert room == [0, KEPT_BYTES]


@pytest.mark.parametrize("most", [0, WEIGHTS_BYTES - 1, 2 * WEIGHTS_BYTES + 1, 9 * WEIGHTS_BYTES])
def test_the_first_draws_are_kept_as_far_as_they_fit(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counting(monkeypatch, Gaussian)
    posterior = Gaussian(network(), random=None, seed=3)
    draws = KeptDraws(posterior, most)
    asked = [(member, redraw) for member in range(2) for redraw in range(2)]
    for _ in range(3):
        for member, redraw in asked:
            weights = draws.weights(member, redraw)
            assert size_of(weights.values()) == WEIGHTS_BYTES
            expected = Gaussian(network(), random=None, seed=3).prediction_weights(member, redraw)
            calls[member, redraw] -= 1
            assert all(torch.equal(weights[name], expected[name]) for name in expected)
    fit = most // WEIGHTS_BYTES
    assert [calls[each] for each in asked] == [1 if i < fit else 3 for i in range(len(asked))]


def test_what_is_not_drawn_is_not_kept() -> None:
    """Members lie in memory already."""
    posterior = Ensemble(network(), samples=2, seed=1)
    posterior.initialise()
    draws = KeptDraws(posterior, 10 * WEIGHTS_BYTES)
    before = draws.weights(1)["weight"].clone()
    with torch.no_grad():
        for parameter in posterior.parameters():
            parameter.add_(1)
    now = draws.weights(1)["weight"]
    assert torch.equal(now, posterior.prediction_weights(1)["weight"])
    assert not torch.equal(now, before)


def test_the_estimate_counts_what_is_kept() -> None:
    assert [kept_bytes(KEPT_BYTES // 3, draws) for draws in (0, 1, 2, 3, 9)] == [
        each * (KEPT_BYTES // 3) for each in (0, 1, 2, 3, 3)
    ]
    assert kept_bytes(KEPT_BYTES + 1, 5) == kept_bytes(0, 5) == 0


@pytest.mark.parametrize("make_posterior", [lambda m: Gaussian(m), lambda m: Dropout(m, seed=1)])
def test_a_block_within_a_block_holds_the_mode(make_posterior: Callable[..., Any]) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))
    posterior = make_posterior(module)
    module.train()
    module[0].eval()

    def modes() -> list[bool]:
        return [layer.training for layer in module.modules()]

    before = modes()
    with posterior.evaluating():
        held = modes()
        with posterior.evaluating():
            assert modes() == held
        assert modes() == held
        module.train(not module.training)  # by whoever takes it for a module of his own
        with posterior.evaluating():
            assert modes() == held
    assert modes() == before
