"""Moving averages of weights: the same on every grid, saved with a run, and what it predicts with.

Tolerance: 1e-10 in float64, relative to the largest number.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import BATCH, Recipe, batch, deviation, make_step, parts
from test_per_sample import K, posterior, started
from torch import Tensor

from hpc_bnn.bayes import POSTERIORS
from hpc_bnn.bayes.members import Members
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses import almost_fair_crps, gaussian_nll
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run.build import read_source
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate
from hpc_bnn.train.score.trained import load_trained
from hpc_bnn.train.step.step import Step

DECAY = 0.7
SEPARABLE, JOINT = "gaussian expected learned", "almost fair crps transposed"
RANKS = divisors(connect().size)
CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": K, "predict_samples": K},
    "loss": {"name": "gaussian_nll", "variance": "learned"},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 4,
        "batch_size": 12,
        "lr": 0.05,
        "ema": DECAY,
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 2,
        "validate_every": 2,
    },
}


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def averages(step: Step, world: World, steps: int = 4) -> dict[str, Tensor]:
    """Collective: train and return the moving averages of all parameters."""
    own = world.grid.own_examples(BATCH)
    for i in range(steps):
        x, y = batch(Recipe("gaussian"), i)
        step(x[own.start : own.stop], y[own.start : own.stop])
    assert step.ema is not None
    return step.ema.weights


@pytest.mark.parametrize("loss", [SEPARABLE, JOINT])
def test_averages_of_what_is_shared_are_those_of_one_rank(
    world: World, solo: World, loss: str
) -> None:
    recipe = Recipe(loss)

    def trained(where: World) -> dict[str, Tensor]:
        of_run = parts(recipe, where)
        return averages(make_step(recipe, where, *of_run, ema=DECAY), where)

    expected, got = trained(solo), trained(world)
    assert got.keys() == expected.keys()
    for name, average in expected.items():
        assert deviation(got[name], average) <= 1e-10, name


@pytest.mark.parametrize("loss", [lambda: gaussian_nll(sigma=0.7), almost_fair_crps])
def test_averages_of_members_are_those_of_one_rank(world: World, solo: World, loss: Any) -> None:
    expected = averages(started(solo, posterior(), loss(), ema=DECAY), solo)
    members = posterior()
    got = averages(started(world, members, loss(), ema=DECAY), world)
    own = world.grid.own_samples(K)
    for name, average in expected.items():
        assert deviation(got[name], average[own.start : own.stop]) <= 1e-10, name
    before = {name: p.detach().clone() for name, p in members.named_parameters()}
    assert any(not torch.equal(before[name], average) for name, average in got.items())


def settings(name: str, **changes: Any) -> Settings:
    content = {**CONTENT, "posterior": {**CONTENT["posterior"], "name": name}}
    return Settings.model_validate({**content, "train": {**CONTENT["train"], **changes}})


def run(
    all_ranks: Group, path: Path, chosen: Settings, sample_ranks: int, *, resume: bool = False
) -> dict[str, Any]:
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(chosen, world, RunFolder(path), resume=resume)
    finally:
        world.stop()


@pytest.mark.parametrize("name", ["gaussian", "members"])
@pytest.mark.parametrize(("first", "then"), [(a, max(RANKS) // a) for a in RANKS])
def test_a_run_goes_on_on_another_grid(
    all_ranks: Group,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    first: int,
    then: int,
) -> None:
    monkeypatch.setitem(POSTERIORS, "members", Members)
    chosen = settings(name)
    expected = all_ranks.on_first(lambda: run(ALONE, folder / "alone", chosen, 1), name="alone")
    newest = folder / "run" / "checkpoints" / "step-00000004.pt"
    run(all_ranks, folder / "run", chosen, first)
    all_ranks.on_first(
        lambda: (newest.unlink(), (folder / "run" / "summary.json").unlink()), name="newest"
    )
    got = run(all_ranks, folder / "run", chosen, then, resume=True)
    assert got["validation"] == pytest.approx(expected["validation"], rel=1e-6)
    assert got["ema"] == DECAY

    def compare() -> None:
        found = load(newest).ema
        whole = load(folder / "alone" / "checkpoints" / "step-00000004.pt").ema
        assert (found["steps"], found["decay"]) == (4, DECAY)
        assert found["weights"].keys() == whole["weights"].keys()
        assert any(key.startswith("loss.") for key in whole["weights"])
        for key, average in whole["weights"].items():
            assert deviation(found["weights"][key], average) <= 1e-10, key

    all_ranks.on_first(compare, name="comparison")


@pytest.mark.parametrize("name", ["gaussian", "members"])
def test_a_run_predicts_with_its_averages(
    all_ranks: Group, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Evaluation, validation and runs that start from it."""
    monkeypatch.setitem(POSTERIORS, "members", Members)
    summary = run(all_ranks, folder / "run", settings(name), RANKS[-1])
    path = folder / "run" / "checkpoints" / "step-00000004.pt"
    world = start(all_ranks, mode="data", device="cpu")
    try:
        trained = load_trained(world, RunFolder(folder / "run"))
        here = dict(trained.parts.posterior.named_parameters())
        here |= {f"loss.{name}": p for name, p in trained.parts.loss.named_parameters()}
        saved = all_ranks.on_first(lambda: _numbers(path), name="averages")
        for key, (average, weight) in saved.items():
            assert torch.equal(here[key].detach(), average), key
            assert not torch.equal(average, weight), key
        assert evaluate(world, RunFolder(folder / "run"))["ema"] == DECAY
    finally:
        world.stop()
    still = settings(name, start_from=str(path), lr=1e-300, steps=2)
    other = run(all_ranks, folder / "other", still, 1)
    assert other["validation"] == pytest.approx(summary["validation"], rel=1e-9)
    plain = settings(name, ema=0.0)
    weights = run(all_ranks, folder / "plain", plain, 1)
    assert weights["parameter_checksum"] == pytest.approx(summary["parameter_checksum"], rel=1e-9)
    assert weights["validation"] != pytest.approx(summary["validation"], rel=1e-6)

    def rows() -> list[dict[str, Any]]:
        text = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    validated = [row for row in all_ranks.on_first(rows, name="rows") if "validation_crps" in row]
    assert len(validated) == 2
    assert validated[-1]["validation_crps"] == pytest.approx(summary["validation"]["crps"])


def _numbers(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each average of a checkpoint and the weight it is of, copied."""
    saved = load(path)
    state = {**saved.posterior, **{f"loss.{name}": t for name, t in saved.loss.items()}}
    return {key: (t.clone(), state[key].clone()) for key, t in saved.ema["weights"].items()}


def test_the_estimate_counts_it() -> None:
    chosen, without = settings("gaussian"), settings("gaussian", ema=0.0)
    source, grid = read_source(chosen, ALONE), Grid(1, 1, 0)
    with_it, plain = estimate(chosen, source, grid), estimate(without, source, grid)
    assert plain.ema == 0
    assert with_it.ema == with_it.optimizer // 2  # of everything that is trained, in float64
    assert with_it.gpu_bytes - plain.gpu_bytes == with_it.ema
