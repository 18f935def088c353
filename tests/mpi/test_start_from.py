"""A run that starts from the weights of another one: the same on any grid, whatever wrote them."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from settings_run import alone as references

from hpc_bnn.config import Settings
from hpc_bnn.group import Group, RankError
from hpc_bnn.parallel.grid import Grid
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import World
from hpc_bnn.train.run.checkpoint import CheckpointError, load, write
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
SOLO = World(Grid(1, 1, 0), torch.device("cpu"))
STILL = 1e-300  # a learning rate that moves nothing


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def run(
    world: World, folder: Path, *, content: dict[str, Any] = CONTENT, **changes: Any
) -> dict[str, Any]:
    settings = {**content, "train": {**content["train"], **changes}}
    return train(Settings.model_validate(settings), world, RunFolder(folder))


OTHERS: dict[str, dict[str, Any]] = {
    "dropout": {"name": "dropout", "samples": 12},
    "ensemble": {"name": "ensemble", "samples": 12, "initial_spread": 0.05},
    "swag": {"name": "swag", "samples": 12, "initial_spread": 0.05, "rank": 2, "start": 0},
}
LOSS = {"name": "gaussian_nll", "variance": "predicted"}
CONTENTS = {"gaussian": CONTENT} | {
    name: {**CONTENT, "posterior": posterior, "loss": LOSS} for name, posterior in OTHERS.items()
}


@pytest.fixture(scope="session")
def first() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of a run that others start from, made by one rank, and its summary."""
    ranks = connect()
    path = Path(ranks.on_first(lambda: tempfile.mkdtemp(), name="first"))
    yield path, ranks.on_first(lambda: run(SOLO, path / "first"), name="first")
    ranks.gather(None, name="done")
    ranks.on_first(lambda: shutil.rmtree(path), name="first")


@pytest.fixture(scope="session")
def alone(first: tuple[Path, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The summary of each run on one rank that starts from it, and from its own weights."""
    path, _ = first

    def make(name: str, world: World) -> dict[str, Any]:
        options: dict[str, Any] = {"content": CONTENTS[name], "lr": 0.01}
        anew = run(world, path / f"{name} anew", **options)
        started = run(world, path / name, start_from=str(path / "first"), **options)
        return started | {"anew": anew["final_loss"]}

    return references(CONTENTS, make)


def test_weights_of_the_same_method(
    world: World, folder: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    path, summary = first
    same = run(world, folder / "same", start_from=str(path / "first"), lr=STILL, steps=1)
    assert same["parameter_checksum"] == pytest.approx(summary["parameter_checksum"], rel=1e-15)


@pytest.mark.parametrize("name", CONTENTS)
def test_weights_of_another_run(
    world: World,
    folder: Path,
    first: tuple[Path, dict[str, Any]],
    alone: dict[str, dict[str, Any]],
    name: str,
) -> None:
    """Given by their folder on one rank, by their file on all."""
    path, summary = first
    file, expected = path / "first" / "checkpoints" / "step-00000004.pt", alone[name]
    got = run(world, folder / "run", content=CONTENTS[name], start_from=str(file), lr=0.01)
    assert expected["parameter_checksum"] != summary["parameter_checksum"]
    assert expected["anew"] != pytest.approx(expected["final_loss"], rel=1e-4)
    assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
    scale = expected["parameter_checksum"]["sum_of_squares"]
    for key, value in expected["parameter_checksum"].items():
        assert got["parameter_checksum"][key] == pytest.approx(value, abs=1e-10 * scale)


def test_the_code_of_another_run_is_not_run(
    world: World, folder: Path, first: tuple[Path, dict[str, Any]]
) -> None:
    """A checkpoint may come from anybody: it must not name what is imported here."""
    path, summary = first
    file = folder / "given" / "step-00000004.pt"

    def give() -> None:
        state = load(path / "first" / "checkpoints" / file.name)
        settings = state.settings.replace("name: mlp", "name: module_of_somebody_else:Net")
        assert settings != state.settings
        write(file, replace(state, settings=settings))

    world.all_ranks.on_first(give, name="given")
    got = run(world, folder / "run", start_from=str(file), lr=STILL, steps=1)
    assert got["parameter_checksum"] == pytest.approx(summary["parameter_checksum"], rel=1e-15)


def test_a_file_of_a_script(world: World, folder: Path, first: tuple[Path, dict[str, Any]]) -> None:
    """``hb.save`` knows no settings."""
    file = folder / "script.pt"

    def give() -> None:
        state = load(first[0] / "first" / "checkpoints" / "step-00000004.pt")
        write(file, replace(state, settings=""))

    world.all_ranks.on_first(give, name="given")
    expected = CheckpointError if world.is_first else RankError
    with pytest.raises(expected, match=r"script\.pt: hb\.save wrote it, .* with hb\.load"):
        run(world, folder / "run", start_from=str(file))


def test_nothing_to_start_from(world: World, folder: Path) -> None:
    expected = CheckpointError if world.is_first else RankError
    with pytest.raises(expected, match=r"train\.start_from = .*missing: .*checkpoint file"):
        run(world, folder / "run", start_from=str(folder / "missing"))
    run(world, folder / "other", steps=1)
    wide = {**CONTENT, "model": {"name": "mlp", "hidden": [9]}}
    with pytest.raises(
        CheckpointError, match=r"step-00000001\.pt: checkpoint of another model: post"
    ):
        run(world, folder / "wide", content=wide, start_from=str(folder / "other"))
    # So that the folder can be used with settings that were mended.
    left = world.all_ranks.on_first(
        lambda: [path for path in folder.rglob("config.yaml") if path.parent.name != "other"],
        name="what is left",
    )
    assert left == []
