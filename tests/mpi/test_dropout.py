"""Monte Carlo dropout: one answer on every grid, in training, from a checkpoint and in prediction.

Tolerance: 1e-10 in float64, relative to the largest loss or parameter.
"""

import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import netCDF4
import pytest
import torch
from small_run import BATCH, OUTPUTS, Recipe, batch, deviation
from torch import Tensor, nn

from hpc_bnn.bayes import Dropout
from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.losses import almost_fair_crps, gaussian_nll
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World, start
from hpc_bnn.train.run.checkpoint import load
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate
from hpc_bnn.train.score.forecast import forecast
from hpc_bnn.train.score.trained import load_trained
from hpc_bnn.train.score.weather import score_weather
from hpc_bnn.train.step.step import Step

K, STEPS = 12, 3
ALL_RANKS = connect()
ON_ONE = World(Grid(1, 1, 0), torch.device("cpu"))
LOSSES = {
    "separable": lambda: gaussian_nll(sigma=0.7),
    "joint": lambda: almost_fair_crps(layout="transposed"),
}
MASKS = ("example", "sample")


class Encoder(nn.Module):
    """Attention over the inputs of an example, once with the tokens first, and dropout in all its
    places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.2, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, OUTPUTS))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x[..., None]).transpose(0, 1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        result: Tensor = self.head(self.layer(tokens.transpose(0, 1)).mean(1))
        return result


def trained(world: World, masks: Any, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    """Collective: return losses and complexity terms, parameters, and a prediction."""
    torch.manual_seed(world.grid.world_rank)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        posterior = Dropout(Encoder().double(), masks=masks, prior_sigma=0.5, seed=5)
    # Adam makes steps of rounding: the gradient of the bias of an attention's keys is 0.
    optimizer = torch.optim.SGD(posterior.parameters(), lr=0.1, momentum=0.5)
    step = Step(
        *(posterior, LOSSES[loss](), optimizer, world),
        samples=K,
        num_examples=100,
        precision="float64",
        guard_every=1,
    )
    own, rows = world.grid.own_examples(BATCH), []
    for i in range(STEPS):
        x, y = batch(Recipe("gaussian"), i)
        step(x[own.start : own.stop], y[own.start : own.stop])
        assert step.report is not None
        rows.append([step.report.loss, step.report.kl])
    x, _ = batch(Recipe("gaussian"), 9)
    members = world.grid.own_samples(K)
    predicted = posterior.predict(
        x[own.start : own.stop], samples=len(members), first=members.start, positions=own
    )
    parameters = torch.cat([p.detach().flatten() for p in posterior.parameters()])
    return torch.tensor(rows, dtype=torch.float64), parameters, predicted


@cache
def reference(masks: str, loss: str) -> tuple[Tensor, Tensor, Tensor]:
    return trained(ON_ONE, masks, loss)


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_grid_gives_the_same(world: World, masks: str, loss: str) -> None:
    figures, parameters, predicted = trained(world, masks, loss)
    expected = reference(masks, loss)
    samples, examples = world.grid.own_samples(K), world.grid.own_examples(BATCH)
    whole = expected[2][samples.start : samples.stop, examples.start : examples.stop]
    assert deviation(figures, expected[0]) <= 1e-10
    assert deviation(parameters, expected[1]) <= 1e-10
    assert deviation(predicted, whole) <= 1e-10


def test_the_kinds_of_masks_differ() -> None:
    first, second = (reference(masks, "separable")[1] for masks in MASKS)
    assert deviation(first, second) > 1e-3


SERIES: dict[str, Any] = {
    "seed": 3,
    "posterior": {"name": "dropout", "samples": K, "predict_samples": K},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.2},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 4,
        "batch_size": 12,
        "lr": 0.01,
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 2,
    },
}


def run(
    content: dict[str, Any], all_ranks: Group, folder: Path, sample_ranks: int, **more: Any
) -> dict[str, Any]:
    """Collective: train in ``folder`` as the command does; return the summary."""
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(Settings.model_validate(content), world, RunFolder(folder), **more)
    finally:
        world.stop()


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Path:
    """A folder of rank 0 that all ranks use."""
    return Path(all_ranks.broadcast(str(tmp_path), name="folder"))


@pytest.fixture(scope="module", params=MASKS)
def series(request: pytest.FixtureRequest) -> Iterator[tuple[dict[str, Any], Path, dict[str, Any]]]:
    """Settings, and folder and summary of a run on one rank."""
    content = {**SERIES, "posterior": {**SERIES["posterior"], "masks": request.param}}
    path = Path(ALL_RANKS.on_first(lambda: tempfile.mkdtemp(), name="alone"))
    summary = ALL_RANKS.on_first(lambda: run(content, ALONE, path / "run", 1), name="alone")
    yield content, path / "run", summary
    ALL_RANKS.on_first(lambda: shutil.rmtree(path), name="alone")


@pytest.mark.parametrize("first", divisors(ALL_RANKS.size))
def test_one_run_on_every_grid_and_from_one_to_another(
    all_ranks: Group, folder: Path, series: Any, first: int
) -> None:
    """Trained with ``first`` sample ranks, and from step 2 on again with as many data ranks."""
    then = all_ranks.size // first
    content, reference, expected = series
    newest = folder / "checkpoints" / "step-00000004.pt"
    results = [run(content, all_ranks, folder, first)]
    all_ranks.on_first(lambda: (newest.unlink(), RunFolder(folder).summary.unlink()), name="newest")
    results.append(run(content, all_ranks, folder, then, resume=True))
    for result in results:
        assert result["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
        assert result["validation"] == pytest.approx(expected["validation"], rel=1e-9)

    def compare() -> None:
        ours, theirs = load(newest), load(reference / "checkpoints" / newest.name)
        assert deviation(flat(ours.posterior), flat(theirs.posterior)) <= 1e-10

    all_ranks.on_first(compare, name="comparison")


def flat(state: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in state.values()])


def test_scores_are_those_of_one_rank(all_ranks: Group, series: Any) -> None:
    scores = []
    for ranks in (ALONE, all_ranks):

        def on(ranks: Group = ranks) -> dict[str, Any]:
            world = start(ranks, mode="data", device="cpu")
            try:
                return evaluate(world, RunFolder(series[1]))["scores"]
            finally:
                world.stop()

        scores.append(on() if ranks.size > 1 else all_ranks.on_first(on, name="alone"))
    assert scores[1] == pytest.approx(scores[0], rel=1e-9)


@pytest.mark.parametrize("masks", MASKS)
def test_weather_is_scored_and_forecast_alike(
    all_ranks: Group, toy_folder: Path, folder: Path, masks: str
) -> None:
    """On all ranks, by members and start times, as on one."""
    content: dict[str, Any] = {
        "seed": 3,
        "posterior": {"name": "dropout", "samples": K, "predict_samples": 4, "masks": masks},
        "loss": {"name": "almost_fair_crps"},
        "model": {
            "name": "swin",
            "width": 8,
            "depths": [2, 0, 0, 0],
            "heads": [2, 2, 2, 2],
            "window": [2, 2],
            "dropout": 0.3,
        },
        "data": {
            "name": "era5",
            "path": str(toy_folder),
            "variables": ["t2m", "u10", "v10"],
            "step_hours": 24,
            "train": ["2001-01-01", "2001-01-30"],
            "validation": ["2001-07-01", "2001-07-10"],
            "test": ["2001-07-11", "2001-07-20"],
        },
        "train": {"steps": 2, "batch_size": 12, "precision": "float64", "device": "cpu"},
        "evaluation": {"steps": 2, "starts": 5, "climatology_states": 10},
    }
    run(content, all_ranks, folder, all_ranks.size)
    fields, scores = [], []
    for name, ranks in (("alone", ALONE), ("spread", all_ranks)):
        path = folder / f"{name}.nc"

        def on(ranks: Group = ranks, path: Path = path) -> dict[str, Any]:
            world = start(ranks, mode="data", device="cpu")
            try:
                trained = load_trained(world, RunFolder(folder))
                forecast(trained, world, path, start_s=994_809_600, steps=3, members=5)
                record = trained.parts.source.fields
                assert record is not None
                return score_weather(trained, world).tally.result(record.names)
            finally:
                world.stop()

        scores.append(on() if ranks.size > 1 else all_ranks.on_first(on, name="alone"))

        def read(path: Path = path) -> Tensor:
            with netCDF4.Dataset(path) as file:
                return torch.as_tensor(file["t2m"][:].data, dtype=torch.float64)

        fields.append(all_ranks.on_first(read, name="forecast"))
    assert torch.equal(*fields)
    assert float(fields[0].std(fields[0].shape.index(5)).min()) > 0  # members differ
    for channel, expected in scores[0].items():
        for score in ("crps", "rmse", "spread_skill_ratio"):
            assert scores[1][channel][score] == pytest.approx(expected[score], rel=1e-6), channel
