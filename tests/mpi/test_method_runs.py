"""Runs of every method, as ``hpc-bnn`` trains, saves, resumes and scores them: on every grid what
they are on one rank, also where the next grid goes on with them.

Tolerance: 1e-10 in float64, validation and scores 1e-6 and 1e-9 relative to each.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from method_table import by_kind
from settings_run import alone
from test_methods import assert_same_states

from hpc_bnn.config import Settings
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import Checkpoint, load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate
from hpc_bnn.train.score.trained import load_trained

K, DECAY = 12, 0.7
PREDICTED = {"name": "gaussian_nll", "variance": "predicted"}
JOINT = {**PREDICTED, "predictive": True}
LEARNED = {"name": "gaussian_nll", "variance": "learned"}
TRAIN: dict[str, Any] = {
    "steps": 4,
    "batch_size": 12,
    "lr": 0.01,
    "precision": "float64",
    "device": "cpu",
    "guard_every": 1,
    "checkpoint_every": 2,
}
COLLECTING = {"steps": 6, "checkpoint_every": 3, "schedule": "constant"}
AVERAGED = {"lr": 0.05, "ema": DECAY, "validate_every": 2}
# Posterior, loss, and what else differs; ``steps`` are twice those of the first checkpoint.
RUNS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "ensemble": (
        {"name": "ensemble", "anchored": True, "samples_per_pass": 5},
        JOINT,
        {"train": {"clip_norm": 0.5}},
    ),
    "ensemble ema": ({"name": "ensemble"}, LEARNED, {"train": AVERAGED}),
    "gaussian ema": ({"name": "gaussian", "predict_samples": K}, LEARNED, {"train": AVERAGED}),
    "ivon": (
        {"name": "gaussian", "samples_per_pass": 5, "kl_warmup_steps": 3},
        LEARNED,
        {"train": {"lr": 0.05}, "optimizer": {"name": "ivon", "beta2": 0.9}},
    ),
    "low_rank": (
        {"name": "low_rank", "rank": 3, "initial_sigma": 0.1, "samples_per_pass": 2},
        JOINT,
        {},
    ),
    "rank1": ({"name": "rank1", "weight_sigma": "fan_in", "samples_per_pass": 2}, JOINT, {}),
    **{
        f"dropout by {masks}": (
            {"name": "dropout", "predict_samples": K, "masks": masks},
            JOINT,
            {"model": {"name": "mlp", "hidden": [8], "dropout": 0.2}},
        )
        for masks in ("example", "sample")
    },
    "sghmc": (
        {
            "name": "sghmc",
            "burn_in": 2,
            "collect_every": 1,
            "snapshots": 4,
            "preconditioning": True,
        },
        PREDICTED,
        {"train": {"lr": 1e-3, **COLLECTING}},
    ),
    "swag": (
        {"name": "swag", "predict_samples": 24, "rank": 2, "start": 1, "collect_every": 1},
        PREDICTED,
        {"train": {"lr": 0.05, **COLLECTING}},
    ),
}
# How many weight samples there are to predict with, of those that are wished.
PREDICTS = {
    "ensemble": K,
    "ensemble ema": K,
    "gaussian ema": K,
    "dropout by example": K,
    "dropout by sample": K,
    "sghmc": 4 * K,
    "swag": 24,
}
# The folder of each run as the grid before this one left it.
BEFORE: dict[str, str] = {}


def settings(name: str, **training: Any) -> Settings:
    posterior, loss, more = RUNS[name]
    content = {
        "seed": 3,
        "posterior": {"samples": K, **posterior},
        "loss": loss,
        "model": {"name": "mlp", "hidden": [8]},
        "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
        **more,
        "train": {**TRAIN, **more.get("train", {}), **training},
    }
    return Settings.model_validate(content)


def last(folder: Path, steps: int) -> Path:
    return folder / "checkpoints" / f"step-{steps:08d}.pt"


@pytest.fixture(scope="session")
def base() -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    ranks = connect()
    path = Path(ranks.on_first(lambda: tempfile.mkdtemp(), name="base"))
    yield path
    ranks.gather(None, name="done")
    ranks.on_first(lambda: shutil.rmtree(path), name="base")


@pytest.fixture(scope="session")
def summaries(base: Path) -> dict[str, dict[str, Any]]:
    """The summary of each run on one rank, and its scores."""

    def make(name: str, world: World) -> dict[str, Any]:
        folder = RunFolder(base / name / "alone")
        summary = train(settings(name), world, folder)
        return summary | {"evaluation": evaluate(world, folder) if name in PREDICTS else {}}

    with pytest.MonkeyPatch.context() as monkeypatch:
        _draw_nothing(monkeypatch)
        return alone(RUNS, make)


def _draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time of an evaluation, and are no matter of grids."""
    monkeypatch.setattr("hpc_bnn.train.score.evaluate._draw", lambda *_: None)
    monkeypatch.setattr("hpc_bnn.data.series.report.SeriesReport.draw", lambda *_: None)


@pytest.mark.parametrize("name", RUNS)
def test_one_run_on_every_grid_and_from_one_to_the_next(
    world: World, base: Path, summaries: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _draw_nothing(monkeypatch)
    chosen, expected, here = settings(name), summaries[name], str(world.grid.sample_ranks)
    steps = chosen.train.steps
    folder, resumed = base / name / here, base / name / f"{here} resumed"
    results = [train(chosen, world, RunFolder(folder))]

    def cut() -> None:
        shutil.copytree(base / name / BEFORE.get(name, "alone"), resumed)
        last(resumed, steps).unlink()
        RunFolder(resumed).summary.unlink()

    world.all_ranks.on_first(cut, name="cut")
    BEFORE[name] = here
    results.append(train(chosen, world, RunFolder(resumed), resume=True))

    def compare() -> None:
        whole = load(last(base / name / "alone", steps))
        for path in (folder, resumed):
            found = load(last(path, steps))
            assert_same_states(found, whole, range(K))
            require_contents(name, found)

    world.all_ranks.on_first(compare, name="comparison")
    for result in results:
        assert result["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
        assert result["parameter_checksum"] == pytest.approx(
            expected["parameter_checksum"], rel=1e-9
        )
        assert result["validation"] == pytest.approx(expected["validation"], rel=1e-6)
        assert result["ema"] == chosen.train.ema
        if name == "sghmc":
            figures = result["diagnostics"]
            assert (figures["chains"], figures["snapshots"]) == (K, 4)
            for of in ("outputs", "weights"):
                assert figures[of] == pytest.approx(expected["diagnostics"][of], rel=1e-6)
    if world.grid.sample_ranks == 1 and name in PREDICTS:
        scores = evaluate(world, RunFolder(folder))
        assert scores["samples"] == PREDICTS[name]
        assert scores["ema"] == chosen.train.ema
        assert scores["scores"] == pytest.approx(expected["evaluation"]["scores"], rel=1e-9)


def require_contents(name: str, state: Checkpoint) -> None:
    """Require what a comparison of two would not miss where both lacked it."""
    kinds, optimizer = by_kind(state), state.optimizer["state"]
    if name.startswith(("ensemble", "sghmc", "swag")):
        assert {k for k in state.per_sample if k.startswith("rows.")} == set(kinds["rows"])
    if name == "sghmc":
        assert all(each.keys() == {"momentum", "squares"} for each in optimizer.values())
    if name == "swag":
        assert state.posterior["collected"] == 5
        assert state.posterior["deviations.network/layers/0/weight"].shape == (K, 2, 8, 12)
    if name == "ivon":
        assert state.optimizer["param_groups"][0]["steps"] == 4
        assert sum("hessian" in each for each in optimizer.values()) == 4
    if name.endswith("ema"):
        assert (state.ema["steps"], state.ema["decay"]) == (4, DECAY)
        assert any(key.startswith("loss.") for key in state.ema["weights"])


@pytest.mark.parametrize("name", [name for name in RUNS if name.endswith("ema")])
def test_a_run_predicts_with_its_averages(
    world: World, base: Path, summaries: dict[str, Any], name: str
) -> None:
    """In validation, evaluation and runs that start from it; its steps are the same without."""
    if world.grid.sample_ranks > 1:
        pytest.skip("told on one grid")
    folder, summary = base / name / "alone", summaries[name]
    trained = load_trained(world, RunFolder(folder))
    here = dict(trained.parts.posterior.named_parameters())
    here |= {f"loss.{key}": p for key, p in trained.parts.loss.named_parameters()}
    path = last(folder, 4)
    saved = load(path)
    state = {**saved.posterior, **{f"loss.{key}": t for key, t in saved.loss.items()}}
    for key, average in saved.ema["weights"].items():
        assert torch.equal(here[key].detach(), average), key
        assert not torch.equal(average, state[key]), key
    still = settings(name, start_from=str(path), lr=1e-300, steps=2)
    other = train(still, world, RunFolder(base / name / "other"))
    assert other["validation"] == pytest.approx(summary["validation"], rel=1e-9)
    plain = train(settings(name, ema=0.0), world, RunFolder(base / name / "plain"))
    assert plain["parameter_checksum"] == pytest.approx(summary["parameter_checksum"], rel=1e-9)
    assert plain["validation"] != pytest.approx(summary["validation"], rel=1e-6)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    validated = [row for row in map(json.loads, lines) if "validation_crps" in row]
    assert len(validated) == 2
    assert validated[-1]["validation_crps"] == pytest.approx(summary["validation"]["crps"])


def test_prediction_has_every_member_on_every_rank(
    world: World, base: Path, summaries: dict[str, Any]
) -> None:
    folder = base / "ensemble" / "alone"
    trained = load_trained(world, RunFolder(folder))
    posterior = trained.parts.posterior
    assert summaries["ensemble"]["samples"] == trained.predict_samples == K  # of 64
    assert posterior.own_samples == range(K)
    state = posterior.state_dict()
    for name, saved in load(last(folder, 4)).posterior.items():
        assert torch.equal(state[name], saved), name
    x = torch.zeros(2, *trained.parts.source.input_shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"samples = 13, from 0 on: .* has 12 weight samples"):
        posterior.predict(x, samples=K + 1)
