"""``grid.mode: auto`` on every number of ranks: all agree; the run is that of the chosen grid.

Tolerance: none in float64 for the same grid; 1e-10 relative to another one, as the contract says.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from hpc_bnn.config import Settings
from hpc_bnn.group import ALONE, Group
from hpc_bnn.parallel.grid import divisors
from hpc_bnn.parallel.watchdog import Watchdog
from hpc_bnn.parallel.world import start
from hpc_bnn.train.plan import auto_grid
from hpc_bnn.train.plan.auto_grid import AutoGrid, start_auto
from hpc_bnn.train.plan.grid_probe import GridProbe
from hpc_bnn.train.run.build import read_source
from hpc_bnn.train.run.folder import RunFolder
from hpc_bnn.train.run.loop import train

# Everything that makes noise is on, and a loss that joins the samples.
CONTENT: dict[str, Any] = {
    "seed": 3,
    "grid": {"mode": "auto"},
    "posterior": {"samples": 12, "initial_sigma": 0.05},
    "loss": {"name": "gaussian_nll", "variance": "predicted", "predictive": True},
    "model": {"name": "mlp", "hidden": [8], "dropout": 0.1},
    "data": {
        "name": "synthetic_series",
        "length": 300,
        "history": 12,
        "horizon": 4,
        "transform": {"name": "jitter", "sigma": 0.1},
    },
    "train": {"steps": 5, "batch_size": 12, "precision": "float64", "device": "cpu"},
}
LOSSES = {
    "expected": {"name": "gaussian_nll", "variance": "predicted"},
    "predictive": CONTENT["loss"],
    "crps": {"name": "almost_fair_crps", "layout": "transposed"},
}


@pytest.fixture
def folder(all_ranks: Group, tmp_path: Path) -> Iterator[Path]:
    """A folder of rank 0 that all ranks use."""
    yield Path(all_ranks.broadcast(str(tmp_path), name="folder"))


def run_auto(
    all_ranks: Group, folder: Path, settings: Settings, *, resume: bool = False
) -> tuple[dict[str, Any], AutoGrid]:
    world, auto = start_auto(settings, all_ranks, RunFolder(folder), resume=resume)
    try:
        return train(settings, world, RunFolder(folder), resume=resume, auto=auto), auto
    finally:
        world.stop()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_run_is_that_of_the_chosen_grid(all_ranks: Group, folder: Path, loss: str) -> None:
    settings = Settings.model_validate({**CONTENT, "loss": LOSSES[loss]})
    got, auto = run_auto(all_ranks, folder / "auto", settings)
    assert len(set(all_ranks.gather(auto.sample_ranks, name="chosen"))) == 1
    candidates = [(c.sample_ranks, c.data_ranks) for c in auto.candidates]
    assert candidates == [(s, all_ranks.size // s) for s in divisors(all_ranks.size)]
    if len(candidates) > 1:
        times = {c.sample_ranks: c.step_time_s for c in auto.candidates}
        assert min(times, key=lambda s: times[s]) == auto.sample_ranks
        assert all(0 < time < 60 for time in times.values())
    assert got["grid"]["sample_ranks"] == auto.sample_ranks
    assert got["grid"]["mode_auto"] == auto.record()

    chosen = {"mode": "hybrid", "sample_ranks": auto.sample_ranks}
    explicit = Settings.model_validate({**CONTENT, "loss": LOSSES[loss], "grid": chosen})
    world = start(all_ranks, sample_ranks=auto.sample_ranks, device="cpu")
    try:
        expected = train(explicit, world, RunFolder(folder / "explicit"))
    finally:
        world.stop()
    assert got["parameter_checksum"] == pytest.approx(expected["parameter_checksum"], rel=1e-13)
    assert got["final_loss"] == pytest.approx(expected["final_loss"], rel=1e-13)
    assert got["validation"] == pytest.approx(expected["validation"], rel=1e-12, nan_ok=True)


def test_resumed_runs_measure_again(all_ranks: Group, folder: Path) -> None:
    half = {**CONTENT, "train": {**CONTENT["train"], "checkpoint_every": 2}}
    settings = Settings.model_validate(half)
    whole, _ = run_auto(all_ranks, folder / "whole", settings)
    first, _ = run_auto(all_ranks, folder / "run", settings)
    if all_ranks.rank == 0:
        # As if the job had ended after step 4.
        (folder / "run" / "summary.json").unlink()
        max((folder / "run" / "checkpoints").iterdir()).unlink()
    all_ranks.broadcast(0, name="cut")
    again, auto = run_auto(all_ranks, folder / "run", settings, resume=True)
    assert again["grid"]["mode_auto"] == auto.record()
    assert again["steps"] == whole["steps"] == first["steps"]
    for key, value in whole["parameter_checksum"].items():
        scale = whole["parameter_checksum"]["sum_of_squares"]
        assert again["parameter_checksum"][key] == pytest.approx(value, abs=1e-10 * scale)


def test_a_batch_too_large_for_one_rank_rules_its_grids_out(
    all_ranks: Group, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks leave out the same grids, whichever rank has too little memory, and go on."""
    settings, last = Settings.model_validate(CONTENT), all_ranks.rank == all_ranks.size - 1
    examples, reads = type(read_source(settings, ALONE).train), []
    read = examples.batch

    def limited(self: Any, indices: Tensor) -> tuple[Tensor, Tensor]:
        reads.append(len(indices))
        if last and len(indices) > 12 // 2:
            raise MemoryError("Unable to allocate 3.00 GiB")
        return read(self, indices)

    monkeypatch.setattr(examples, "batch", limited)
    world, auto = start_auto(settings, all_ranks, RunFolder(folder / "run"), resume=False)
    world.stop()
    if all_ranks.size == 1:
        assert reads == []  # nothing to choose
        return
    times = {c.data_ranks: c.step_time_s for c in auto.candidates}
    assert times.pop(1) == math.inf
    assert all(math.isfinite(time) for time in times.values())
    assert len(set(all_ranks.gather(auto.sample_ranks, name="chosen"))) == 1
    assert world.grid.data_ranks > 1
    assert reads == [12, 12 // min(times)]


def test_reading_is_not_watched_and_measuring_is(
    all_ranks: Group, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank takes its own time to open the data and to read the first batch."""
    limited = {**CONTENT, "train": {**CONTENT["train"], "stall_timeout": 60}}
    settings, told = Settings.model_validate(limited), []
    examples = type(read_source(settings, ALONE).train)

    def note(owner: Any, name: str, word: str) -> None:
        method = getattr(owner, name)

        def noted(*words: Any, **more: Any) -> Any:
            told.append(word)
            return method(*words, **more)

        monkeypatch.setattr(owner, name, noted)

    note(Watchdog, "pause", "pause")
    note(Watchdog, "resume", "resume")
    note(auto_grid, "read_source", "open")
    note(examples, "batch", "read")
    note(GridProbe, "accumulation", "measure")
    world, _ = start_auto(settings, all_ranks, RunFolder(folder / "run"), resume=False)
    world.stop()
    whole = ["pause", "open", "read", "resume", "measure"]
    assert told[:5] == (whole if all_ranks.size > 1 else [])
    assert told.count("pause") == (all_ranks.size > 1)


def test_no_grid_is_possible(all_ranks: Group, folder: Path) -> None:
    odd = {
        **CONTENT,
        "posterior": {"samples": 5},
        "train": {**CONTENT["train"], "batch_size": 7},
    }
    settings = Settings.model_validate(odd)
    if all_ranks.size == 1:
        run_auto(all_ranks, folder / "run", settings)
        return
    with pytest.raises(ValueError, match=r"posterior\.samples = 5 .* train\.batch_size = 7") as no:
        start_auto(settings, all_ranks, RunFolder(folder / "run"), resume=False)
    assert f"{all_ranks.size} ranks" in str(no.value)
    assert not (folder / "run").exists()
