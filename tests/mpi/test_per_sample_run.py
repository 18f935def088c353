"""A run of an anchored ensemble, as ``hpc-bnn`` trains, saves, resumes and scores it: on every
grid what it is on one rank, also where another grid goes on with it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hpc_bnn.config import Settings, dump_settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import Grid, divisors
from hpc_bnn.parallel.mpi import connect
from hpc_bnn.parallel.world import start
from hpc_bnn.train.plan.estimate import estimate
from hpc_bnn.train.run.build import check_choices, read_source, resolved
from hpc_bnn.train.run.checkpoint import load, newest_good
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train
from hpc_bnn.train.score.evaluate import evaluate
from hpc_bnn.train.score.trained import load_trained

K = 12
ALL_RANKS = connect()
CONTENT: dict[str, Any] = {
    "seed": 3,
    "posterior": {"name": "ensemble", "samples": K, "samples_per_pass": 5, "anchored": True},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8]},
    "data": {"name": "synthetic_series", "length": 300, "history": 12, "horizon": 4},
    "train": {
        "steps": 4,
        "batch_size": 12,
        "lr": 0.01,
        "clip_norm": 0.5,
        "precision": "float64",
        "device": "cpu",
        "guard_every": 1,
        "checkpoint_every": 2,
    },
}


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({**CONTENT, "train": {**CONTENT["train"], **changes}})


def run(
    all_ranks: Group, folder: Path, sample_ranks: int = 1, *, resume: bool = False
) -> dict[str, Any]:
    world = start(all_ranks, sample_ranks=sample_ranks, device="cpu")
    try:
        return train(settings(), world, RunFolder(folder), resume=resume)
    finally:
        world.stop()


def test_the_method_is_known_by_its_name_and_options() -> None:
    check_choices(settings(), "my.yaml")
    options = resolved(settings()).posterior.options
    assert options == {"prior_sigma": 1.0, "anchored": True, "initial_spread": None}
    assert "name: ensemble" in dump_settings(settings())


@pytest.fixture(scope="module")
def alone() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder of a run on one rank, and its summary."""
    all_ranks = ALL_RANKS
    path = Path(all_ranks.on_first(lambda: tempfile.mkdtemp(), name="alone"))
    yield path / "run", all_ranks.on_first(lambda: run(ALONE, path / "run"), name="alone")
    all_ranks.gather(None, name="done")
    all_ranks.on_first(lambda: shutil.rmtree(path), name="alone")


@pytest.mark.parametrize("first", divisors(ALL_RANKS.size))
@pytest.mark.parametrize("then", divisors(ALL_RANKS.size))
def test_one_run_on_every_grid_and_from_one_to_another(
    all_ranks: Group, folder: Path, alone: tuple[Path, dict[str, Any]], first: int, then: int
) -> None:
    """Trained with ``first`` sample ranks, and from step 2 on again with ``then``."""
    reference, expected = alone
    newest = folder / "checkpoints" / "step-00000004.pt"
    results = [run(all_ranks, folder, first)]
    assert_same(all_ranks, newest, reference)
    all_ranks.on_first(lambda: (newest.unlink(), RunFolder(folder).summary.unlink()), name="newest")
    results.append(run(all_ranks, folder, then, resume=True))
    assert_same(all_ranks, newest, reference)
    for result in results:
        assert result["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-10)
        assert result["parameter_checksum"] == pytest.approx(
            expected["parameter_checksum"], rel=1e-9
        )
        assert result["validation"] == pytest.approx(expected["validation"], rel=1e-6)


def assert_same(all_ranks: Group, path: Path, folder: Path) -> None:
    """Compare what a checkpoint holds with the last one of a run on one rank."""

    def compare() -> None:
        found, whole = load(path), load(folder / "checkpoints" / "step-00000004.pt")
        names = {name for name in whole.posterior if name.startswith("rows.")}
        assert set(found.per_sample) == set(whole.per_sample) == names
        for name, tensor in whole.posterior.items():
            assert torch.allclose(found.posterior[name], tensor, rtol=0, atol=1e-10), name
            assert name not in names or len(tensor) == K
        for number, moments in whole.optimizer["state"].items():
            for key, value in moments.items():
                got = found.optimizer["state"][number][key]
                assert got.shape == value.shape
                assert torch.allclose(got, value, rtol=0, atol=1e-10), key

    all_ranks.on_first(compare, name="comparison")


def test_prediction_has_every_member_on_every_rank(
    all_ranks: Group, alone: tuple[Path, dict[str, Any]]
) -> None:
    folder = RunFolder(alone[0])
    world = start(all_ranks, mode="data", device="cpu")
    try:
        trained = load_trained(world, folder)
        assert trained.predict_samples == K  # of the 64 that were asked for
        assert trained.parts.posterior.own_samples == range(K)
        found = newest_good(folder.checkpoints)
        assert found is not None
        state = trained.parts.posterior.state_dict()
        assert all(torch.equal(state[name], saved) for name, saved in found[1].posterior.items())
        x = torch.zeros(2, *trained.parts.source.input_shape, dtype=torch.float64)
        with pytest.raises(ValueError, match=r"samples = 13, from 0 on: .* has 12 weight samples"):
            trained.parts.posterior.predict(x, samples=K + 1)
        result = evaluate(world, folder)
        assert result["samples"] == K
    finally:
        world.stop()


def test_the_estimate_counts_own_rows_only() -> None:
    source = read_source(settings(), ALONE)
    alone, spread = (estimate(settings(), source, Grid(s, 1, s - 1)) for s in (1, 4))
    fixed = estimate(settings(), source, Grid(12, 1, 0)).parameters
    network = (alone.parameters - fixed) / 11  # of one member
    assert spread.parameters == pytest.approx(fixed + 2 * network)
    assert spread.optimizer == alone.optimizer // 4
