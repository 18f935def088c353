"""A run that starts from the weights of another one: the same on any grid, whatever wrote them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group, RankError
from hpc_bnn.parallel.grid import divisors
from hpc_bnn.parallel.world import start
from hpc_bnn.train.run.checkpoint import CheckpointError
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train

CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {"samples": 12, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.1},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {"steps": 4, "batch_size": 12, "precision": "float64", "device": "cpu"},
}
STILL = 1e-300  # a learning rate that moves nothing


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def run(
    all_ranks: Group,
    folder: Path,
    *,
    content: dict[str, Any] = CONTENT,
    sample_ranks: int = 1,
    **changes: Any,
) -> dict[str, Any]:
    settings = {**content, "train": {**content["train"], **changes}}
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(Settings.model_validate(settings), world, RunFolder(folder))
    finally:
        world.stop()


def test_weights_of_another_run(all_ranks: Group, folder: Path) -> None:
    first = run(all_ranks, folder / "first")
    taken = str(folder / "first")
    same = run(all_ranks, folder / "same", start_from=taken, lr=STILL, steps=1)
    assert same["parameter_checksum"] == pytest.approx(first["parameter_checksum"], rel=1e-15)
    file = str(folder / "first" / "checkpoints" / "step-00000004.pt")
    expected = None
    if all_ranks.rank == 0:
        expected = run(ALONE, folder / "alone", start_from=taken, lr=0.01)
    expected = all_ranks.broadcast(expected, name="expected")
    assert expected is not None
    assert expected["parameter_checksum"] != first["parameter_checksum"]
    for ranks in divisors(all_ranks.size):
        own = folder / f"{ranks}"
        got = run(all_ranks, own, sample_ranks=ranks, start_from=file, lr=0.01)
        assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
        scale = expected["parameter_checksum"]["sum_of_squares"]
        for key, value in expected["parameter_checksum"].items():
            assert got["parameter_checksum"][key] == pytest.approx(value, abs=1e-10 * scale)


@pytest.mark.parametrize(
    "posterior",
    [
        {"name": "dropout", "samples": 12},
        {"name": "ensemble", "samples": 12, "initial_spread": 0.05},
        {"name": "swag", "samples": 12, "initial_spread": 0.05, "rank": 2, "start": 0},
    ],
    ids=lambda posterior: str(posterior["name"]),
)
def test_weights_of_another_method(
    all_ranks: Group, folder: Path, posterior: dict[str, Any]
) -> None:
    run(all_ranks, folder / "first")
    loss = {"name": "gaussian_nll", "variance": "predicted"}
    content = {**CONTENT, "posterior": posterior, "loss": loss}
    options: dict[str, Any] = {"content": content, "start_from": str(folder / "first"), "lr": 0.01}
    expected = None
    if all_ranks.rank == 0:
        expected = run(ALONE, folder / "alone", **options)
        anew = run(ALONE, folder / "anew", **{**options, "start_from": ""})
        assert anew["final_loss"] != pytest.approx(expected["final_loss"], rel=1e-4)
    expected = all_ranks.broadcast(expected, name="expected")
    assert expected is not None
    for ranks in divisors(all_ranks.size):
        got = run(all_ranks, folder / f"{ranks}", sample_ranks=ranks, **options)
        assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
        scale = expected["parameter_checksum"]["sum_of_squares"]
        for key, value in expected["parameter_checksum"].items():
            assert got["parameter_checksum"][key] == pytest.approx(value, abs=1e-10 * scale)


def test_nothing_to_start_from(all_ranks: Group, folder: Path) -> None:
    expected = CheckpointError if all_ranks.rank == 0 else RankError
    with pytest.raises(expected, match=r"train\.start_from = .*missing: .*checkpoint file"):
        run(all_ranks, folder / "run", start_from=str(folder / "missing"))
    run(all_ranks, folder / "other", steps=1)
    settings = {**CONTENT, "model": {"name": "mlp", "hidden": [9]}}
    settings["train"] = {**CONTENT["train"], "start_from": str(folder / "other")}
    world = start(all_ranks, sample_ranks=1, device="cpu")
    try:
        with pytest.raises(
            CheckpointError, match=r"step-00000001\.pt: checkpoint of another model: post"
        ):
            train(Settings.model_validate(settings), world, RunFolder(folder / "wide"))
    finally:
        world.stop()
    # So that the folder can be used with settings that were mended.
    left = all_ranks.on_first(
        lambda: [path for path in folder.rglob("config.yaml") if path.parent.name != "other"],
        name="what is left",
    )
    assert left == []
